"""What snapshots take on disk: counted in the background, read from memory."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import anyio
import anyio.to_thread

from common.clock import now_ns
from common.observe.log import get_logger
from common.sys import linux

_RESOLVE = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS | 0x01
"""0x01 is RESOLVE_NO_XDEV: a container that changes names meanwhile leads nowhere else."""
_SHARE = 10
"""Counting takes no more than a tenth of one core."""
_log = get_logger("usage")


class Use(NamedTuple):
    """Bytes and inodes that a snapshot's own writes take."""

    used_bytes: int
    used_inodes: int
    at_ns: int


def measure(root: Path) -> tuple[int, int]:
    """Bytes on disk and inodes below and with a directory, each inode once; zeros when it is gone.

    What vanishes or cannot be opened meanwhile is not counted: a container may write here.
    """
    try:
        root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return 0, 0
    try:
        size_bytes, inodes, seen = os.fstat(root_fd).st_blocks * 512, 1, set[int]()
        waiting = ["."]
        while waiting:
            here = waiting.pop()
            for entry in _entries(root_fd, here):
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{here}/{entry.name}")
                elif status.st_nlink > 1:
                    if status.st_ino in seen:
                        continue
                    seen.add(status.st_ino)
                size_bytes += status.st_blocks * 512
                inodes += 1
        return size_bytes, inodes
    finally:
        os.close(root_fd)


def _entries(root_fd: int, here: str) -> Iterable[os.DirEntry[str]]:
    try:
        fd = linux.openat2(root_fd, here, os.O_RDONLY | os.O_DIRECTORY, resolve=_RESOLVE)
    except OSError:
        return
    try:
        # a list would hold a whole directory; the entries need the fd open while they are asked
        with os.scandir(fd) as found:
            yield from found
    finally:
        os.close(fd)


class UsageCache:
    """Use by snapshot key.

    Args:
        interval_s: age at which a value is counted anew.
        places: keys with their directory, and what of it is not the snapshot's own.
    """

    def __init__(
        self, interval_s: float, places: Callable[[], dict[str, tuple[Path, tuple[int, int]]]]
    ) -> None:
        self._interval_s = interval_s
        self._places = places
        self._uses: dict[str, Use] = {}

    async def run(self) -> None:
        """Count for ever."""
        while True:
            start = monotonic()
            await self.refresh()
            await anyio.sleep(max(self._interval_s, (monotonic() - start) * (_SHARE - 1)))

    async def refresh(self) -> None:
        """Count all once."""
        places = self._places()
        for key in [key for key in self._uses if key not in places]:
            del self._uses[key]
        for key, place in places.items():
            await self._count(key, place)

    async def get(self, keys: Iterable[str]) -> dict[str, Use]:
        """The use of those snapshots that exist; a new one is counted now."""
        places = self._places()
        known = [key for key in keys if key in places]
        for key in known:
            if key not in self._uses:
                await self._count(key, places[key])
        return {key: self._uses[key] for key in known if key in self._uses}

    def total(self) -> Use:
        """All together, from memory."""
        uses = self._uses.values()
        at_ns = max((use.at_ns for use in uses), default=now_ns())
        return Use(sum(use.used_bytes for use in uses), sum(use.used_inodes for use in uses), at_ns)

    async def _count(self, key: str, place: tuple[Path, tuple[int, int]]) -> None:
        path, (base_bytes, base_inodes) = place
        used_bytes, used_inodes = await anyio.to_thread.run_sync(measure, path)
        self._uses[key] = Use(max(used_bytes - base_bytes, 0), max(used_inodes - base_inodes, 0), now_ns())
