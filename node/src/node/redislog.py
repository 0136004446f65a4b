"""Redis' append-only log after a power cut, which may leave bytes at its end that are no commands: Redis does not start with them."""

import shutil
import subprocess
from pathlib import Path

from node.layout import program

_CHECK_S = 300.0
MANIFEST = Path("appendonlydir", "appendonly.aof.manifest")


def mend(directory: Path) -> str:
    """Cut the log of Redis' directory after its last whole command; says what it did, nothing where all was well.

    What is cut off stays beside it. Blocking.

    Raises:
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
    fixed = _check(manifest, "--fix")
    if fixed.returncode:
        raise OSError(0, f"redis-check-aof: {fixed.stdout[-300:]}", str(manifest))
    return (
        f"cut {before - log.stat().st_size} bytes off {log}, which were no commands; it was copied to {kept}"
    )


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
