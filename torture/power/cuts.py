"""`./dev torture --power CUTS`: boot, let it work, cut the power, boot on the same disk, look; as often as asked.

The power goes by SIGKILL to the emulator: what the machine's kernel had not yet written to its disk is lost.
"""

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
from torture.page import Section, Table

DISK_BYTES = 4 << 30
BOOT_S = 900.0
"""Until the node is up and all that was on its disk is compared."""
BEGIN_S = 300.0
"""Until a first image was pulled or a container started after that."""
WORK_S = (5.0, 60.0)
"""From then on until the cut."""
SETTLED_S = 5.0
"""What was told so long before the cut is on the disk: Redis writes its log there once a second, ext4 within as many."""
LOOK_S = 0.1


@dataclass
class Found:
    """What the boots said."""

    boots: int = 0
    up: int = 0
    """Of them those whose look came to its end."""
    images: int = 0
    """Compared after a cut, file by file."""
    codes: int = 0
    """Of containers from before a cut, compared after it."""
    slowest_s: float = 0.0
    """From power on until all was compared."""
    problems: list[str] = field(default_factory=list)
    has: set[str] = field(default_factory=set)
    """Images whose pull was answered."""
    promised: dict[str, int] = field(default_factory=dict)
    """Containers of this boot that are not removed, and the exit code that each was told to end with."""
    ended: set[str] = field(default_factory=set)
    """Those of them whose end was told long enough before the cut."""

    def read(self, lines: list[str], *, settled: bool = True) -> set[str]:
        """What a boot has said since the last time; the first words of that.

        Args:
            lines: of its output.
            settled: the power stays for SETTLED_S more.
        """
        return {self._take(line, settled) for line in lines}

    def _take(self, line: str, settled: bool) -> str:
        word, *rest = line.split()
        if word == "PROBLEM":
            self.problems.append(f"boot {self.boots}: {' '.join(rest)}")
        elif word in ("PULLED", "REMOVING"):
            self.has.discard(rest[0])
            if word == "PULLED":
                self.has.add(rest[0])
        elif word == "STARTING":
            self.promised[rest[0]] = int(rest[1])
        elif word == "ENDED" and settled:
            self.ended.add(rest[0])
        elif word == "FORGETTING":
            self.promised.pop(rest[0])
            self.ended.discard(rest[0])
        elif word == "CHECKED":
            self.images += int(rest[0])
            self.codes += int(rest[1])
            self.promised, self.ended = {}, set()  # they were compared, and removed
        return word

    def arguments(self) -> list[str]:
        """For `torture.power.boot`: what must be there."""
        promised = [f"{name}={code}" for name, code in self.promised.items()]
        return ["--has", *sorted(self.has), "--promised", *promised, "--ended", *sorted(self.ended)]

    def section(self, cuts: int, seed: int) -> Section:
        return Section(
            ran=f"{cuts} power cuts of an emulated machine during pulls and churn, seed {seed}.",
            faults=cuts,
            survived=max(0, self.up - 1),
            worst_s=self.slowest_s,
            lost=self.problems,
            tables=[
                Table(
                    ["Compared after a cut", "number"],
                    [["images, file by file", str(self.images)], ["exit codes", str(self.codes)]],
                )
            ],
        )


def run(cuts: int, packages: list[str], seed: int) -> Section:
    """Cut as often as asked.

    Args:
        cuts: how often.
        packages: of Debian, in the machine.
        seed: of the dice.
    """
    with guest.making():
        image = guest.root_image((*guest.SYSTEM, *packages))
    found, dice = Found(), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="slipway-power-") as made, guest.furnished() as place:
        kept = Path(made, "kept.img")
        kept.touch()
        subprocess.run(["mke2fs", "-q", "-t", "ext4", str(kept), f"{DISK_BYTES >> 10}k"], check=True)
        for _ in range(cuts + 1):
            anyio.run(boot, image, place, kept, found, dice)
    return found.section(cuts, seed)


async def boot(image: Path, place: Path, kept: Path, found: Found, dice: random.Random) -> None:
    """One boot, from power on to the cut."""
    found.boots += 1
    command = [".venv/bin/python", "-m", "torture.power.boot", "--seed", str(dice.randrange(10**6))]
    guest.order(place, [*command, *found.arguments()])
    output = place / "output"
    output.write_text("")
    with _machine(guest.qemu(image, place, str(output), kept)) as machine:
        lines, began = _Lines(output), time.monotonic()

        async def said(words: set[str], deadline_s: float) -> None:
            with anyio.fail_after(deadline_s):
                while not words & found.read(lines.new()):
                    if machine.poll() is not None:
                        raise TimeoutError
                    await anyio.sleep(LOOK_S)

        try:
            await said({"CHECKED"}, BOOT_S)
            found.up += 1
            found.slowest_s = max(found.slowest_s, time.monotonic() - began)
            await said({"PULLED", "STARTING"}, BEGIN_S)
        except TimeoutError:
            found.problems.append(
                f"boot {found.boots}: did not come up, or did not begin to work: {output.read_text()[-2000:]}"
            )
            return
        await anyio.sleep(dice.uniform(*WORK_S) - SETTLED_S)
        found.read(lines.new())
        await anyio.sleep(SETTLED_S)
        if machine.poll() is not None:
            found.problems.append(f"boot {found.boots}: ended by itself: {output.read_text()[-2000:]}")
    found.read(lines.new(), settled=False)
    told = f"{found.images} images and {found.codes} exit codes compared, {len(found.problems)} problems"
    print(f"boot {found.boots}: {told}", file=sys.stderr, flush=True)


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
