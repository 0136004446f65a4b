"""Gzip members of an eStargz blob, each of which can be read by itself."""

from isal import igzip_lib, isal_zlib

MAGIC = b"\x1f\x8b"
_GZIP = 31
_DAMAGED: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]  # its stub says that it is an instance


def inflated(member: bytes, limit: int) -> bytes | None:
    """What the member at the beginning of these bytes has, up to a bound; None when it is damaged."""
    try:
        content: bytes = isal_zlib.decompressobj(wbits=_GZIP).decompress(member, max_length=limit)
    except _DAMAGED:
        return None
    return content
