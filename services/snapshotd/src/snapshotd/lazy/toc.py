"""The table of contents of a blob that can be read in pieces: bytes in, checked entries out.

Of an eStargz blob (stargz-snapshotter, docs/estargz.md) it is a gzip member at the end: a tar with one file of JSON,
whose digest the image's manifest vouches for. Of a zstd:chunked blob (containers/storage, pkg/chunked) it is a zstd
frame of JSON, and the manifest vouches for the frame. What the manifest says may still come from a hostile hand, so
sizes are bounded before anything is built of them.
"""

import hashlib
import tarfile
from dataclasses import dataclass, field

import msgspec

from snapshotd.diff.whiteout import BadEntryError
from snapshotd.lazy.member import GZIP, ZSTD, Codec

NAME = "stargz.index.json"
ZEROS = "zeros"
PREFETCH, NO_PREFETCH = ".prefetch.landmark", ".no.prefetch.landmark"
"""Files in the root that only say how far to read ahead."""
MAX_BYTES = 64 << 20
"""Of JSON, decompressed; entries have some 300 bytes."""
_BLOCK = 512


class BadTocError(BadEntryError):
    """The table is not one that can be served; an ordinary unpacking may still go well."""


class Entry(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """One line of the table; `chunk` lines continue the file of the `reg` line before them."""

    name: str = ""
    type: str = ""
    size: int = 0
    modtime: str = ""
    link_name: str = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    offset: int = 0
    inner_offset: int = 0
    dev_major: int = 0
    dev_minor: int = 0
    xattrs: dict[str, bytes] = {}
    digest: str = ""
    chunk_offset: int = 0
    chunk_size: int = 0
    chunk_digest: str = ""
    chunk_type: str = ""
    """`ZEROS` for a hole, of which the blob has nothing."""


class _Toc(msgspec.Struct, frozen=True):
    version: int
    entries: list[msgspec.Raw]


@dataclass(frozen=True)
class Bounds:
    """What a layer may be at most."""

    max_entries: int
    max_bytes: int
    max_toc_bytes: int = field(default=MAX_BYTES)


def read(piece: bytes, digest: str, bounds: Bounds, codec: Codec = GZIP) -> list[Entry]:
    """The entries of a table.

    Args:
        piece: the blob's bytes that have it; what follows a gzip member does not matter.
        digest: of the JSON, or with zstd of the piece, as the manifest says it.
        bounds: of what is served.
        codec: how it is compressed.

    Raises:
        BadTocError: it is damaged, has another digest, or passes a bound.
    """
    body: bytes | memoryview
    if codec is ZSTD:
        _check(piece, digest)  # before anything is decompressed
        body = _plain(piece, bounds.max_toc_bytes)
    else:
        body = _archived(piece, bounds.max_toc_bytes)
        _check(body, digest)
    try:
        toc = msgspec.json.decode(body, type=_Toc)
        if toc.version != 1:
            raise BadTocError(f"its table of contents has the version {toc.version}, not 1")
        if len(toc.entries) > bounds.max_entries:
            raise BadTocError(f"it has {len(toc.entries)} entries, more than {bounds.max_entries}")
        decoder = msgspec.json.Decoder(Entry)
        return [decoder.decode(raw) for raw in toc.entries]
    except (msgspec.DecodeError, RecursionError) as exc:
        raise BadTocError(f"its table of contents is malformed: {exc}") from exc


def _check(vouched: bytes | memoryview, digest: str) -> None:
    found = f"sha256:{hashlib.sha256(vouched).hexdigest()}"
    if found != digest:
        raise BadTocError(f"its table of contents has the digest {found}, not {digest}")


def _plain(frame: bytes, limit: int) -> bytes:
    content = ZSTD.inflated(frame, limit + 1)
    if content is None:
        raise BadTocError("its table of contents is damaged")
    if len(content) > limit:
        raise BadTocError(f"its table of contents has more than {limit} bytes")
    return content


def _archived(member: bytes, limit: int) -> memoryview:
    content = GZIP.inflated(member, limit + 4 * _BLOCK)
    if content is None:
        raise BadTocError("its table of contents is damaged")
    try:
        header = tarfile.TarInfo.frombuf(content[:_BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError as exc:
        raise BadTocError(f"its table of contents is no tar: {exc}") from exc
    if header.name != NAME:
        raise BadTocError(f"its table of contents has the name {header.name[:100]!r}, not {NAME}")
    if header.size > limit:
        raise BadTocError(f"its table of contents has {header.size} bytes, more than {limit}")
    body = memoryview(content)[_BLOCK : _BLOCK + header.size]
    if len(body) != header.size:
        raise BadTocError("its table of contents is cut off")
    return body
