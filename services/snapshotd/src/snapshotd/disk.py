"""Writing out to disk: callers that arrive during one sync share the next."""

import os
from pathlib import Path

import anyio
import anyio.to_thread

from common.sys import linux
from common.sys.files import sync_directory


class DiskSync:
    """syncfs of the filesystem of one directory.

    Args:
        directory: any on that filesystem.
        enabled: false to leave it to the kernel.
    """

    def __init__(self, directory: Path, *, enabled: bool) -> None:
        self._directory = directory
        self._enabled = enabled
        self._begun = 0
        self._failures = 0
        self._failure: OSError | None = None
        self._lock = anyio.Lock()

    async def sync(self) -> None:
        """Return when all that was written before the call is on disk.

        Raises:
            OSError: the disk failed.
        """
        if not self._enabled:
            return
        entered, failures = self._begun, self._failures
        async with self._lock:
            if self._failure and self._failures > failures:
                raise self._failure  # the kernel tells once, and it may have been about what we wrote
            if self._begun > entered:
                return  # one that began after us has ended
            self._begun += 1
            try:
                await anyio.to_thread.run_sync(self._sync)
            except OSError as exc:
                self._failures, self._failure = self._failures + 1, exc
                raise

    async def sync_file(self, path: Path) -> None:
        """Return when one file and its name are on disk.

        Raises:
            OSError: the disk failed.
        """
        if self._enabled:
            await anyio.to_thread.run_sync(_sync_file, path)

    def _sync(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            linux.syncfs(fd)
        finally:
            os.close(fd)


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(path.parent)
