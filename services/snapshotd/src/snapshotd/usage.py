"""What snapshots take on disk: counted in the background, read from memory."""

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import anyio
import anyio.to_thread

from common.clock import now_ns
from common.observe.log import get_logger
from common.sys import linux

_RESOLVE = (
    linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS | linux.RESOLVE_NO_XDEV
)
"""A container that changes names meanwhile leads nowhere else."""
_HELD = 64
"""Directories of one path that are held open; deeper ones are found again from below."""
_SHARE = 5
"""Counting takes no more than a fifth of one core."""
_log = get_logger("usage")


class Use(NamedTuple):
    """Bytes and inodes that a snapshot's own writes take."""

    used_bytes: int
    used_inodes: int
    at_ns: int


@dataclass
class _Level:
    """A directory, and the names of those in it that are not counted yet."""

    fd: int
    """Negative when it is not held open."""
    names: list[str]
    inode: tuple[int, int] = (0, 0)
    """Device and number of what is not held open."""


def measure(root: Path) -> tuple[int, int]:
    """Bytes on disk and inodes below and with a directory, each inode once; zeros when it is gone.

    What vanishes or cannot be opened or read meanwhile is not counted: a container may write here, and of a file system
    with errors the rest is still worth knowing. No path is too long.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0, 0
    levels = [_Level(root_fd, [])]
    try:
        count = _Count(os.fstat(root_fd))
        levels[0].names = count.entries(root_fd)
        while levels:
            if levels[-1].names:
                _descend(levels, count)
            else:
                _ascend(levels)
        return count.size_bytes, count.inodes
    finally:
        for level in levels:
            if level.fd >= 0:
                os.close(level.fd)


def _descend(levels: list[_Level], count: "_Count") -> None:
    """Count what is in the next directory of the innermost level."""
    here = levels[-1]
    try:
        fd = linux.openat2(here.fd, here.names.pop(), os.O_RDONLY | os.O_DIRECTORY, resolve=_RESOLVE)
    except OSError:
        return
    levels.append(_Level(fd, []))
    levels[-1].names = count.entries(fd)
    if len(levels) > _HELD:
        here.inode = _inode(here.fd)
        os.close(here.fd)
        here.fd = -1


def _ascend(levels: list[_Level]) -> None:
    """Leave the innermost level; when it was moved away meanwhile, up to one that is held open."""
    left = levels.pop()
    try:
        if levels and levels[-1].fd < 0:
            levels[-1].fd = _above(left.fd, levels[-1].inode)
        while levels and levels[-1].fd < 0:
            levels.pop()
    finally:
        os.close(left.fd)


def _above(fd: int, wanted: tuple[int, int]) -> int:
    """The directory above, if it is still that one; negative otherwise."""
    try:
        above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return -1
    if _inode(above) == wanted:
        return above
    os.close(above)
    return -1


def _inode(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class _Count:
    """What was found up to now."""

    def __init__(self, root: os.stat_result) -> None:
        self.size_bytes, self.inodes = root.st_blocks * 512, 1
        self._seen: set[int] = set()

    def entries(self, fd: int) -> list[str]:
        """Count what is in a directory, as far as it can be read; returns the names of those that are directories."""
        inner: list[str] = []
        with suppress(OSError), os.scandir(fd) as found:
            for entry in found:
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    inner.append(entry.name)
                elif status.st_nlink > 1:
                    if status.st_ino in self._seen:
                        continue
                    self._seen.add(status.st_ino)
                self.size_bytes += status.st_blocks * 512
                self.inodes += 1
        return inner


def pause_s(interval_s: float, took_s: float) -> float:
    """How long to wait after a count, so that the next one begins in time if that is not too much work."""
    return max(interval_s - took_s, took_s * (_SHARE - 1))


class _Found(NamedTuple):
    own: Use
    on_disk: Use


class UsageCache:
    """Use by key of a snapshot, or of what becomes one or a layer.

    Args:
        interval_s: between the beginnings of two counts.
        places: keys with their directory, and what of it is not their own.
    """

    def __init__(
        self, interval_s: float, places: Callable[[], dict[str, tuple[Path, tuple[int, int]]]]
    ) -> None:
        self._interval_s = interval_s
        self._places = places
        self._found: dict[str, _Found] = {}

    async def run(self) -> None:
        """Count for ever."""
        while True:
            start = monotonic()
            await self.refresh()
            await anyio.sleep(pause_s(self._interval_s, monotonic() - start))

    async def refresh(self) -> None:
        """Count all once."""
        places = self._places()
        for key in [key for key in self._found if key not in places]:
            del self._found[key]
        for key, place in places.items():
            await self._count(key, place)

    async def get(self, keys: Iterable[str]) -> dict[str, Use]:
        """The use of those snapshots that exist; a new one is counted now."""
        places = self._places()
        known = [key for key in keys if key in places]
        for key in known:
            if key not in self._found:
                await self._count(key, places[key])
        return {key: self._found[key].own for key in known if key in self._found}

    def total(self) -> Use:
        """What those that exist now take together, with what is not their own, from memory; as old as the oldest of it."""
        uses = [self._found[key].on_disk for key in self._places() if key in self._found]
        at_ns = min((use.at_ns for use in uses), default=now_ns())
        return Use(sum(use.used_bytes for use in uses), sum(use.used_inodes for use in uses), at_ns)

    async def _count(self, key: str, place: tuple[Path, tuple[int, int]]) -> None:
        path, (base_bytes, base_inodes) = place
        at_ns = now_ns()
        try:
            used_bytes, used_inodes = await anyio.to_thread.run_sync(measure, path)
        except OSError as exc:
            # what was found last stays
            _log.warning("usage.unknown", path=str(path), error=str(exc))
            return
        own = Use(max(used_bytes - base_bytes, 0), max(used_inodes - base_inodes, 0), at_ns)
        self._found[key] = _Found(own, Use(used_bytes, used_inodes, at_ns))
