"""Unfinished blobs: files that keep their bytes over failures and restarts, hashed while they grow."""

import errno
import hashlib
import os
from pathlib import Path

from common.digest import Digest
from common.errors import DataLossError, ResourceExhaustedError, SlipwayError, UnavailableError
from imaged import meters

CHUNK_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class PartialFile:
    """One unfinished blob. Every method blocks; one thread at a time.

    Args:
        path: the file; bytes of an earlier try are hashed again, since nothing vouches for them.
        digest: what it shall be.
        size_bytes: how long it shall be.
    """

    def __init__(self, path: Path, digest: Digest, size_bytes: int) -> None:
        self._path = path
        self._digest = digest
        self._size = size_bytes
        self.offset = 0
        self.resumed = False
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise disk_error(exc, path) from exc
        self._hash = hashlib.new(digest.algorithm, usedforsecurity=False)
        self._read_back()

    def write(self, chunk: bytes) -> None:
        """Append; see `imaged.ports.Partial`."""
        if self.offset + len(chunk) > self._size:
            raise DataLossError(f"blob {self._digest}: more than its {self._size} bytes came")
        view = memoryview(chunk)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as exc:
            self._cut(self.offset)
            raise disk_error(exc, self._path) from exc
        self._hash.update(chunk)
        self.offset += len(chunk)
        meters.FETCHED.inc(len(chunk))

    def restart(self) -> None:
        self._cut(0)
        self._hash = hashlib.new(self._digest.algorithm, usedforsecurity=False)
        self.offset = 0
        self.resumed = False

    def verify(self) -> None:
        """Compare size and digest; see `imaged.ports.Partial`."""
        if self.offset != self._size:
            got = self.offset
            self.restart()
            raise DataLossError(f"blob {self._digest}: {got} bytes came, not {self._size}")
        found = self._hash.hexdigest()
        if found != self._digest.hex:
            self.restart()
            raise DataLossError(f"blob {self._digest}: what came has {self._digest.algorithm}:{found}")

    def sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as exc:
            raise disk_error(exc, self._path) from exc

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _cut(self, length: int) -> None:
        os.ftruncate(self._fd, length)
        os.lseek(self._fd, length, os.SEEK_SET)

    def _read_back(self) -> None:
        if os.fstat(self._fd).st_size > self._size:
            self._cut(0)
        while chunk := os.read(self._fd, CHUNK_BYTES):
            self._hash.update(chunk)
            self.offset += len(chunk)
        self.resumed = self.offset > 0


def disk_error(exc: OSError, path: Path) -> SlipwayError:
    """What an error of the file system means to a caller."""
    if exc.errno in _FULL:
        return ResourceExhaustedError(f"the disk that holds {path.parent} is full")
    return UnavailableError(f"the content store at {path} failed: {exc.strerror}")
