"""Chunks of files out of a blob whose bytes may not be here: nothing is given out that its digest does not vouch for.

Nobody keeps a list of what is here. A chunk is read and verified; when that fails, its bytes are asked for, and then
asked for again, for the case that what was here is damaged.
"""

import errno
import hashlib
import os
import threading
from collections import OrderedDict
from typing import Protocol

from snapshotd.lazy.member import GZIP, Codec
from snapshotd.lazy.tree import Chunk

AT_ONCE = 4
"""Chunks that are decompressed: a frame of zstd may want 64 MiB for its window alone."""
KEPT_BYTES = 24 << 20
"""Of decompressed chunks; the kernel caches what was read of them, too."""


class Source(Protocol):
    """Brings bytes of the blob. Blocking; from any thread."""

    def bring(self, start: int, end: int, *, again: bool) -> None:
        """Have these bytes in the blob's file; `again` although they seem to be there.

        Raises:
            OSError: they cannot be had, or not in time.
        """

    def damaged(self, start: int, end: int) -> None:
        """Tell that the registry's bytes are not what the table says."""


class Chunks:
    """Verified chunks of one blob; from any thread.

    Args:
        blob: descriptor of its file, in which bytes that are not here are zero.
        source: brings them.
        codec: how they are compressed.
        kept_bytes: of chunks in memory.
    """

    def __init__(
        self, blob: int, source: Source, codec: Codec = GZIP, *, kept_bytes: int = KEPT_BYTES
    ) -> None:
        self._blob, self._source, self._codec, self._room = blob, source, codec, kept_bytes
        self._kept: OrderedDict[Chunk, bytes] = OrderedDict()
        self._coming: dict[Chunk, threading.Lock] = {}
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    def here(self, chunk: Chunk) -> bytes | None:
        """A chunk whose bytes are here; None otherwise. Waits for no network."""
        with self._lock:
            found = self._kept.get(chunk)
            if found is not None:
                self._kept.move_to_end(chunk)
                return found
        magic = self._codec.magic
        if os.pread(self._blob, len(magic), chunk.offset) != magic:
            return None
        try:
            with self._turns:
                found = self._verified(self._read(chunk), chunk)
        except MemoryError as exc:
            raise OSError(errno.ENOMEM, "no memory to decompress") from exc
        if found is not None:
            self._keep(chunk, found)
        return found

    def get(self, chunk: Chunk) -> bytes:
        """A chunk, brought here when it must be.

        Raises:
            OSError: it cannot be had, or the registry has other bytes.
        """
        with self._lock:
            first = self._coming.setdefault(chunk, threading.Lock())
        with first:
            try:
                return self._brought(chunk)
            finally:
                with self._lock:
                    self._coming.pop(chunk, None)

    def _brought(self, chunk: Chunk) -> bytes:
        for again in (None, False, True):
            if again is not None:
                self._source.bring(chunk.offset, chunk.end, again=again)
            found = self.here(chunk)
            if found is not None:
                return found
        self._source.damaged(chunk.offset, chunk.end)
        raise OSError(
            f"bytes {chunk.offset} to {chunk.end} of the blob are not what the table of contents says"
        )

    def _verified(self, member: bytes, chunk: Chunk) -> bytes | None:
        """A chunk out of the compressed bytes that have it; None when these are not its bytes."""
        content = self._codec.inflated(member, chunk.inner + chunk.size)
        if content is None:
            return None
        piece = content[chunk.inner :]
        whole = len(piece) == chunk.size and hashlib.sha256(piece).digest() == chunk.sha256
        return piece if whole else None

    def _read(self, chunk: Chunk) -> bytes:
        parts, at = [], chunk.offset
        while at < chunk.end and (part := os.pread(self._blob, chunk.end - at, at)):
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    def _keep(self, chunk: Chunk, content: bytes) -> None:
        with self._lock:
            if chunk in self._kept:
                return
            self._kept[chunk] = content
            self._room -= len(content)
            while self._room < 0 and len(self._kept) > 1:
                self._room += len(self._kept.popitem(last=False)[1])
