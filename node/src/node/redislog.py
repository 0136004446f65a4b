"""Redis' append-only log after a power cut, which may leave bytes at its end that are no commands: Redis does not start with them.

`python -m node.redislog DIRECTORY [COMMAND...]` mends the log of a directory, then becomes the command.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from common.errors import SlipwayError
from node.layout import program

FAILURES = (OSError, SlipwayError, subprocess.TimeoutExpired)
"""What `mend` raises."""
_CHECK_S = 300.0
_PIECE_BYTES = 1 << 20
MANIFEST = Path("appendonlydir", "appendonly.aof.manifest")


def main() -> None:
    """Mend where it can be; Redis itself says what is wrong when it cannot."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m node.redislog DIRECTORY [COMMAND...]")
    directory, *command = sys.argv[1:]
    try:
        if what := mend(Path(directory)):
            sys.stderr.write(f"repaired: {what}\n")
    except FAILURES as exc:
        sys.stderr.write(f"not repaired: {exc}\n")
    if command:
        os.execvp(command[0], command)  # noqa: S606 - what the unit or the container is there to run


def mend(directory: Path) -> str:
    """Cut off what Redis refuses of its directory's log; says what it did, nothing where all was well.

    Zeros at the end go first, alone: redis-check-aof would also cut at a transaction that an earlier loss has left open,
    which Redis reads, and all that came after it. What is cut off stays beside it. Blocking.

    Raises:
        FailedPreconditionError: redis-check-aof is not installed.
        OSError: the directory cannot be read or written, or the damage is not where it can be cut.
        subprocess.TimeoutExpired: the check hangs.
    """
    manifest = directory / MANIFEST
    if not manifest.exists() or _check(manifest).returncode == 0:
        return ""
    log = max(manifest.parent.glob("*.incr.aof"), key=lambda path: path.stat().st_mtime_ns, default=None)
    if log is None:
        raise OSError(0, "damaged, but not in what could be cut", str(manifest))
    before, kept = log.stat().st_size, log.with_suffix(".damaged")
    shutil.copyfile(log, kept)
    kept_bytes = _without_zeros(log)
    if kept_bytes < before:
        os.truncate(log, kept_bytes)
    elif (fixed := _check(manifest, "--fix")).returncode:
        raise OSError(0, f"redis-check-aof: {fixed.stdout[-300:]}", str(manifest))
    return (
        f"cut {before - log.stat().st_size} bytes off {log}, which were no commands; it was copied to {kept}"
    )


def _without_zeros(log: Path) -> int:
    """The bytes up to the last that is not zero; a whole command ends with a line feed."""
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _PIECE_BYTES)
            file.seek(start)
            left = len(file.read(end - start).rstrip(b"\0"))
            if left:
                return start + left
            end = start
    return 0


def _check(manifest: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [program("redis-check-aof"), *options, str(manifest)]
    return subprocess.run(
        command,
        input="y\n",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=_CHECK_S,
        check=False,
    )


if __name__ == "__main__":
    main()
