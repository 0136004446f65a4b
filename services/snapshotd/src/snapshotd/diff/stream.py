"""The bytes of a layer: decompressed in one thread, hashed in another, handed out in blocks.

zlib, SHA-256 and writing files all leave the interpreter's lock while they work, so that three threads
keep the cores busy; the queues between them bound the memory. A small blob is over before that pays, and has one thread.
"""

import hashlib
import io
import os
import queue
import threading
from typing import Protocol

BLOCK_BYTES = 256 << 10
_DEPTH = 8
_SMALL_BYTES = 1 << 20
"""Of a blob: two threads with their stacks and heaps cost 1 ms, a layer of a third of this some 7."""
_MAX_WINDOW_BYTES = 1 << 26
"""A decoder should support 8 MiB (RFC 8878, 3.1.1.1.2), and no writer of images is known to take more."""


class StreamError(Exception):
    """The blob cannot be decompressed, or its content is not the diff ID's."""


class TooBigError(Exception):
    """The content is larger than the settings allow."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def compression(head: bytes, media_type: str) -> str:
    """gzip, zstd or none, by the first bytes; a media type that says otherwise is a fault.

    Raises:
        StreamError: the media type names a compression that the bytes do not have.
    """
    if head.startswith(b"\x1f\x8b"):
        found = "gzip"
    elif head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        found = "zstd"  # the second form is a skippable frame, with which zstd:chunked may begin
    else:
        found = "none"
    wanted = next((w for w in ("gzip", "zstd") if media_type.endswith(("+" + w, "." + w))), found)
    if found == "none" and wanted != "none" and head:
        message = f"the media type {media_type} says {wanted}, but the bytes are not"
        raise StreamError(message)
    return found


def _open(blob: "io.BufferedReader[io.FileIO]", kind: str) -> _Readable:
    # imported here, because the libraries must be in memory before the helper's root changes
    if kind == "gzip":
        from isal import igzip

        return igzip.IGzipFile(fileobj=blob, mode="rb")  # type: ignore[no-untyped-call]
    if kind == "zstd":
        import zstandard

        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        return decompressor.stream_reader(blob, read_size=1 << 18, read_across_frames=True)
    return blob


class LayerStream:
    """The content of one blob, hashed on its way.

    Args:
        fd: the open blob.
        media_type: what the manifest calls it.
        algorithm: the diff ID's digest algorithm.
        max_bytes: more content than this ends with TooBigError.
    """

    def __init__(self, fd: int, media_type: str, algorithm: str, max_bytes: int) -> None:
        size = os.fstat(fd).st_size
        blob = io.BufferedReader(io.FileIO(fd), buffer_size=min(size, 1 << 18) + 1)
        self.compression = compression(blob.peek(4)[:4], media_type)
        self._source = _open(blob, self.compression)
        self._hash = hashlib.new(algorithm)
        self._bytes_left = max_bytes
        self._max_bytes = max_bytes
        self._threaded = size > _SMALL_BYTES
        self._blocks: queue.Queue[bytes | BaseException] = queue.Queue(_DEPTH)
        self._to_hash: queue.Queue[bytes] = queue.Queue(_DEPTH)
        self._ended = False
        self._hasher = threading.Thread(target=self._digest, name="hash", daemon=True)
        self._producer = threading.Thread(target=self._produce, name="decompress", daemon=True)

    def start(self) -> None:
        if self._threaded:
            self._hasher.start()
            self._producer.start()

    def read(self) -> bytes:
        """The next block; empty at the end.

        Raises:
            StreamError: the blob is damaged or ends too early.
            TooBigError: the content passes the bound.
        """
        if self._ended:
            return b""
        self._ended = True  # whatever comes, but a block
        block = self._queued() if self._threaded else self._hashed()
        self._ended = not block
        return block

    def finish(self) -> str:
        """Read what follows the archive's end, and give the content's digest in hex."""
        while self.read():
            pass
        if self._threaded:
            self._hasher.join()
        return self._hash.hexdigest()

    def _queued(self) -> bytes:
        block = self._blocks.get()
        if isinstance(block, BaseException):
            raise block
        return block

    def _hashed(self) -> bytes:
        block = self._decompressed()
        self._hash.update(block)
        return block

    def _decompressed(self) -> bytes:
        try:
            block = self._source.read(BLOCK_BYTES)
        except Exception as exc:  # each decompressor has errors of its own; all mean damage
            message = f"its {self.compression} data is damaged: {exc}"
            raise StreamError(message) from exc
        self._bytes_left -= len(block)
        if self._bytes_left < 0:
            message = f"its content is larger than {self._max_bytes} bytes"
            raise TooBigError(message)
        return block

    def _produce(self) -> None:
        try:
            while block := self._decompressed():
                self._to_hash.put(block)
                self._blocks.put(block)
            self._blocks.put(b"")
        except (StreamError, TooBigError) as exc:
            self._blocks.put(exc)
        finally:
            self._to_hash.put(b"")

    def _digest(self) -> None:
        while block := self._to_hash.get():
            self._hash.update(block)
