"""Pieces of a compressed blob, each of which can be read by itself: gzip members and zstd frames."""

from collections.abc import Callable
from typing import NamedTuple

import zstandard
from isal import igzip_lib, isal_zlib

_GZIP = 31
_DAMAGED: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]  # its stub says that it is an instance
_MAX_WINDOW_BYTES = 1 << 26


class Codec(NamedTuple):
    """One compression."""

    magic: bytes
    """What a piece begins with."""
    inflated: Callable[[bytes, int], bytes | None]
    """What the piece at the beginning of these bytes has, up to a bound; None when it is damaged, MemoryError where there is
    no memory for it."""


def of(media_type: str) -> Codec:
    """How a layer of this media type is compressed."""
    return ZSTD if media_type.endswith(("+zstd", ".zstd")) else GZIP


def _gunzipped(member: bytes, limit: int) -> bytes | None:
    try:
        content: bytes = isal_zlib.decompressobj(wbits=_GZIP).decompress(member, max_length=limit)
    except _DAMAGED:
        return None
    return content


def _unzstd(frame: bytes, limit: int) -> bytes | None:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    try:
        return decompressor.stream_reader(frame).read(limit)
    except zstandard.ZstdError as exc:
        if "memory" in str(exc):  # its only sign
            raise MemoryError(str(exc)) from exc
        return None


GZIP = Codec(b"\x1f\x8b", _gunzipped)
ZSTD = Codec(b"\x28\xb5\x2f\xfd", _unzstd)
