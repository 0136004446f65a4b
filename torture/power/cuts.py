"""`./dev torture --power CUTS`: boot, let it work, cut the power, boot on the same disk, look; as often as asked.

The power goes by SIGKILL to the emulator: what the machine's kernel had not yet written to its disk is lost.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from devtools import guest

DISK_BYTES = 4 << 30
BOOT_S = 900.0
"""Until the node is up and all that was on its disk is compared."""
WORK_S = (5.0, 60.0)
LOOK_S = 0.1


@dataclass
class Found:
    """What the boots said."""

    boots: int = 0
    images: int = 0
    """Compared after a cut, file by file."""
    slowest_s: float = 0.0
    """From power on until all was compared."""
    problems: list[str] = field(default_factory=list)
    has: set[str] = field(default_factory=set)
    """Images whose pull was answered."""

    def read(self, lines: list[str]) -> bool:
        """What a boot has said since the last time; whether its look is over by it."""
        return True in [self._take(line) for line in lines]

    def _take(self, line: str) -> bool:
        word, *rest = line.split()
        if word == "PROBLEM":
            self.problems.append(f"boot {self.boots}: {' '.join(rest)}")
        elif word in ("PULLED", "REMOVING"):
            self.has.discard(rest[0])
            if word == "PULLED":
                self.has.add(rest[0])
        elif word == "CHECKED":
            self.images += int(rest[0])
            return True
        return False


def main() -> None:
    """Cut as often as asked; ends with 1 when something was lost."""
    parser = argparse.ArgumentParser(prog="./dev torture --power", description=__doc__)
    parser.add_argument("cuts", type=int)
    parser.add_argument("--packages", default="", help="Debian packages of the machine, comma separated")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    arguments = parser.parse_args()
    with guest.making():
        image = guest.root_image((*guest.SYSTEM, *filter(None, arguments.packages.split(","))))
    found, dice = Found(), random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="slipway-power-") as made, guest.furnished() as place:
        kept = Path(made, "kept.img")
        kept.touch()
        subprocess.run(["mke2fs", "-q", "-t", "ext4", str(kept), f"{DISK_BYTES >> 10}k"], check=True)
        for _ in range(arguments.cuts + 1):
            anyio.run(boot, image, place, kept, found, dice)
    print(
        f"seed {arguments.seed}: {arguments.cuts} power cuts, {found.images} images compared whole, "
        f"slowest boot with its look {found.slowest_s:.0f} s, {len(found.problems)} lost"
    )
    for problem in found.problems:
        print(f"LOST  {problem}", file=sys.stderr)
    sys.exit(1 if found.problems else 0)


async def boot(image: Path, place: Path, kept: Path, found: Found, dice: random.Random) -> None:
    """One boot, from power on to the cut."""
    found.boots += 1
    guest.order(
        place,
        [
            ".venv/bin/python",
            "-m",
            "torture.power.boot",
            "--seed",
            str(dice.randrange(10**6)),
            "--has",
            *found.has,
        ],
    )
    output = place / "output"
    output.write_text("")
    with _machine(guest.qemu(image, place, str(output), kept)) as machine:
        lines, began = _Lines(output), time.monotonic()
        try:
            with anyio.fail_after(BOOT_S):
                while not found.read(lines.new()):
                    if machine.poll() is not None:
                        raise TimeoutError
                    await anyio.sleep(LOOK_S)
        except TimeoutError:
            found.problems.append(f"boot {found.boots}: did not come up: {output.read_text()[-2000:]}")
            return
        found.slowest_s = max(found.slowest_s, time.monotonic() - began)
        await anyio.sleep(dice.uniform(*WORK_S))
        if machine.poll() is not None:
            found.problems.append(f"boot {found.boots}: ended by itself: {output.read_text()[-2000:]}")
    found.read(lines.new())
    print(f"boot {found.boots}: {found.images} images compared, {len(found.problems)} problems", flush=True)


@contextmanager
def _machine(command: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    machine = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield machine
    finally:
        machine.kill()
        machine.wait()


class _Lines:
    """What is new in a file that grows, in whole lines."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def new(self) -> list[str]:
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        self._read += len(whole) + 1 if whole else 0
        return [line for line in whole.decode(errors="replace").splitlines() if line.strip()]


if __name__ == "__main__":
    main()
