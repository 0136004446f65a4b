"""Unfinished blobs: files that keep their bytes over failures and restarts.

Pieces of a large blob come in any order. What is missing is what the file has holes for (SEEK_DATA, lseek(2)): a hole
becomes data only by a write, so it tells the truth after any death of the process. A file system that loses data which
it called written, as after a power cut, is found out by the digest, which has the last word.
"""

import errno
import hashlib
import os
import threading
from pathlib import Path

from common.digest import Digest
from common.errors import DataLossError, SlipwayError, of_system
from imaged import meters

CHUNK_BYTES = 1 << 20
PAGE_BYTES = 64 << 10
"""The largest page: so much before a hole may be half written, and is not counted on."""
CATCH_UP_BYTES = 16 << 20
"""The most that is hashed behind one write, so that a connection does not wait for long."""
Extent = tuple[int, int]
"""First byte, and the one after the last."""


class PartialFile:
    """One unfinished blob. Every method blocks; `write` may be called by several threads, the others by one alone.

    Args:
        path: the file.
        digest: what it shall be.
        size_bytes: how long it shall be.
    """

    def __init__(self, path: Path, digest: Digest, size_bytes: int) -> None:
        self._path = path
        self._digest = digest
        self._size = size_bytes
        self._lock = threading.Lock()
        self._hashing = threading.Lock()
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise disk_error(exc, path) from exc
        try:
            if os.fstat(self._fd).st_size > size_bytes:
                os.ftruncate(self._fd, 0)
            self.scattered = _shows_holes(self._fd, size_bytes)
            self._have = _extents(self._fd)
        except OSError as exc:
            self.close()
            raise disk_error(exc, path) from exc
        self.fetched_bytes = sum(end - start for start, end in self._have)
        self._hash, self._hashed = hashlib.new(digest.algorithm, usedforsecurity=False), 0

    def missing(self) -> list[Extent]:
        """What is not here; see `imaged.ports.Partial`."""
        with self._lock:
            edges = [0, *(edge for extent in self._have for edge in extent), self._size]
        gaps = zip(edges[::2], edges[1::2], strict=True)
        return [(start, end) for start, end in gaps if start < end]

    def write(self, chunk: bytes, at: int) -> None:
        """Write at a place; see `imaged.ports.Partial`."""
        if at + len(chunk) > self._size:
            raise DataLossError(f"blob {self._digest}: more than its {self._size} bytes came")
        view, place = memoryview(chunk), at
        try:
            while view:
                count = os.pwrite(self._fd, view, place)
                view, place = view[count:], place + count
        except OSError as exc:
            raise disk_error(exc, self._path) from exc
        with self._lock:
            self._have = _joined([*self._have, (at, place)])
            self.fetched_bytes = sum(end - start for start, end in self._have)
        meters.FETCHED.inc(len(chunk))
        if self._hashing.acquire(blocking=False):
            try:
                if at == self._hashed:
                    self._hash.update(chunk)
                    self._hashed += len(chunk)
                self._catch_up(CATCH_UP_BYTES)
            finally:
                self._hashing.release()

    def restart(self) -> None:
        try:
            os.ftruncate(self._fd, 0)
        except OSError as exc:
            raise disk_error(exc, self._path) from exc
        self._have, self.fetched_bytes = [], 0
        self._hash, self._hashed = hashlib.new(self._digest.algorithm, usedforsecurity=False), 0

    def verify(self) -> None:
        """Compare size and digest; see `imaged.ports.Partial`."""
        if self.fetched_bytes != self._size:
            got = self.fetched_bytes
            self.restart()
            raise DataLossError(f"blob {self._digest}: {got} bytes came, not {self._size}")
        self._catch_up(self._size)
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

    def _catch_up(self, most: int) -> None:
        """Hash what is here without a gap, from the page cache."""
        while most > 0:
            with self._lock:
                whole = self._have[0][1] if self._have and not self._have[0][0] else 0
            if self._hashed >= whole:
                return
            try:
                chunk = os.pread(self._fd, min(CHUNK_BYTES, whole - self._hashed), self._hashed)
            except OSError as exc:
                raise disk_error(exc, self._path) from exc
            if not chunk:
                raise DataLossError(f"blob {self._digest}: its file was cut at byte {self._hashed}")
            self._hash.update(chunk)
            self._hashed += len(chunk)
            most -= len(chunk)


def _shows_holes(fd: int, size_bytes: int) -> bool:
    """Whether what was never written shows as a hole; else bytes may be appended only."""
    end = os.fstat(fd).st_size
    beyond = -(-end // PAGE_BYTES) * PAGE_BYTES
    if beyond >= size_bytes:
        return True  # nothing more would be scattered
    os.ftruncate(fd, size_bytes)
    try:
        os.lseek(fd, beyond, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
        return True
    else:
        return False
    finally:
        os.ftruncate(fd, end)


def _extents(fd: int) -> list[Extent]:
    """What was written, as far as it can be counted on."""
    end, place, found = os.fstat(fd).st_size, 0, []
    while place < end:
        try:
            start = os.lseek(fd, place, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                break
            raise
        place = os.lseek(fd, start, os.SEEK_HOLE)
        sure = place if place == end else (place - 1) // PAGE_BYTES * PAGE_BYTES
        if start < sure:
            found.append((start, sure))
    return found


def _joined(extents: list[Extent]) -> list[Extent]:
    joined: list[Extent] = []
    for start, end in sorted(extents):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def disk_error(exc: OSError, path: Path) -> SlipwayError:
    """What an error of the file system means to a caller."""
    return of_system(exc, f"content store at {path}")
