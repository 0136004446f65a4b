"""The bytes of an archive, decompressed as they come: gzip and zstd by their first bytes, each piece bounded."""

import zlib
from collections.abc import Iterator
from typing import Any

import zstandard

from common.errors import DataLossError, InvalidArgumentError

PIECE_BYTES = 1 << 20
_ZSTD_FEED_BYTES = 512
"""What goes to zstd at once: a block of 128 KiB may be four bytes, so this bounds the memory to 16 MiB."""
_GZIP_FEED_BYTES = 16 << 10
"""What goes to zlib at once: after each member, which may be twenty bytes, it copies the rest."""
_MAX_WINDOW_BYTES = 1 << 27
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


def compression(head: bytes) -> str:
    """gzip, zstd or nothing, by the first bytes.

    Raises:
        InvalidArgumentError: a compression that is not supported.
    """
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd"
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise InvalidArgumentError(f"archive: it is compressed with {name}; gzip and zstd are supported")
    return ""


class Inflater:
    """Blocks; `feed` gives what became of a piece, in bounded pieces."""

    def __init__(self) -> None:
        self._kind: str | None = None
        self._engine: Any = None

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Decompress; the first piece must have at least six bytes.

        Raises:
            DataLossError: it is damaged.
            InvalidArgumentError: it has another compression.
        """
        if self._kind is None:
            self._kind = compression(piece[:6])
        try:
            if self._kind == "gzip":
                yield from self._gzip(piece)
            elif self._kind == "zstd":
                yield from self._zstd(piece)
            else:
                yield piece
        except (zlib.error, zstandard.ZstdError) as exc:
            raise DataLossError(f"archive: its {self._kind} data is damaged: {exc}") from exc

    def close(self) -> None:
        """No more bytes come.

        Raises:
            DataLossError: the compressed data is cut off.
        """
        if self._engine is not None and not self._engine.eof:
            raise DataLossError(f"archive: its {self._kind} data is cut off")

    def _gzip(self, whole: bytes) -> Iterator[bytes]:
        for start in range(0, len(whole), _GZIP_FEED_BYTES):
            yield from self._members(whole[start : start + _GZIP_FEED_BYTES])

    def _members(self, piece: bytes) -> Iterator[bytes]:
        while piece:
            if self._engine is None or self._engine.eof:
                piece = piece.lstrip(b"\x00") if self._engine else piece  # padding after a member
                if not piece:
                    return
                self._engine = zlib.decompressobj(wbits=31)
            yield self._engine.decompress(piece, PIECE_BYTES)
            piece = self._engine.unconsumed_tail or self._engine.unused_data

    def _zstd(self, piece: bytes) -> Iterator[bytes]:
        for start in range(0, len(piece), _ZSTD_FEED_BYTES):
            rest = piece[start : start + _ZSTD_FEED_BYTES]
            while rest:
                if self._engine is None or self._engine.eof:
                    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
                    self._engine = decompressor.decompressobj()
                yield self._engine.decompress(rest)
                rest = self._engine.unused_data if self._engine.eof else b""
