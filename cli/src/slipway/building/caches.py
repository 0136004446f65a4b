"""The directories of RUN --mount=type=cache, on the node: made, held while a build uses them, counted and removed.

Each is DATA_DIR/build-cache/NAME, beside a file NAME.lock whose lock says that a build uses it, whose content is the id
that the Dockerfile gave, and whose time is the last use.
"""

import fcntl
import hashlib
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_DIRECTORY = "build-cache"
MAX_ID = 1024
_GOING = ".going"
_BLOCK_BYTES = 512
_FLOCK = "hhqqi4x"
"""struct flock of a 64-bit kernel (asm-generic/fcntl.h)."""


@dataclass(frozen=True, slots=True)
class Cache:
    """One directory."""

    path: Path
    id: str
    used_at_ns: int
    size_bytes: int
    in_use: bool


def held(data_dir: str, name: str, *, alone: bool, stack: ExitStack) -> tuple[Path, bool]:
    """Hold a cache for as long as a stack is open; returns where it is to be, and whether it must be made.

    Raises:
        BlockingIOError: another build has it; one that is not shared is one build's at a time.
    """
    path = Path(data_dir, _DIRECTORY, hashlib.sha256(name.encode()).hexdigest())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    stack.enter_context(_lock(path, fcntl.F_WRLCK if alone else fcntl.F_RDLCK, name))
    return path, not path.is_dir()


def listed(data_dir: str) -> list[Cache]:
    """All of them, the longest unused first. Blocking; what goes meanwhile is passed over."""
    found = []
    for lock in Path(data_dir, _DIRECTORY).glob("*.lock"):
        path = lock.with_suffix("")
        try:
            text = lock.read_bytes()[:MAX_ID].decode(errors="replace")
            used_at_ns = lock.stat().st_mtime_ns
        except FileNotFoundError:
            continue
        if path.is_dir():
            found.append(Cache(path, text, used_at_ns, _size(path), _is_locked(lock)))
    return sorted(found, key=lambda cache: cache.used_at_ns)


def remove(cache: Cache) -> bool:
    """Remove a cache; returns whether it went: not when a build uses it. Blocking."""
    try:
        with _lock(cache.path, fcntl.F_WRLCK):
            # elsewhere first: what is half removed is no cache
            going = Path(tempfile.mkdtemp(_GOING, f"{cache.path.name}.", cache.path.parent))
            cache.path.rename(going / "cache")
            shutil.rmtree(going)
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


def sweep(data_dir: str) -> None:
    """Remove what removals left that were interrupted. Blocking."""
    for going in Path(data_dir, _DIRECTORY).glob(f"*{_GOING}"):
        with (
            suppress(BlockingIOError, FileNotFoundError),
            _lock(going.with_name(going.name.partition(".")[0]), fcntl.F_WRLCK),
        ):
            shutil.rmtree(going)


@contextmanager
def _lock(path: Path, kind: int, name: str = "") -> Iterator[None]:
    """Hold the lock of a cache; with its id it counts as used. The file stays: who waits for it would hold another's."""
    fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(kind))
        if name:
            os.pwrite(fd, name.encode()[:MAX_ID], 0)
            os.utime(fd)
        yield
    finally:
        os.close(fd)


def _is_locked(lock: Path) -> bool:
    """Whether somebody holds it; asks without taking it, which a build that begins would meet."""
    with lock.open("r+b") as file:
        answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK))
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def _flock(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def _size(path: Path) -> int:
    total = 0
    for directory, names, files in os.walk(path):
        for name in (*names, *files):
            try:
                total += os.lstat(f"{directory}/{name}").st_blocks * _BLOCK_BYTES
            except FileNotFoundError:
                continue
    return total
