"""The records of snapshotd: it is their only writer."""

import msgspec

from common.records import Record
from common.sys.userns import IdMappings

OVERLAYFS = "overlayfs"
NATIVE = "native"
EROFS = "erofs"


class LazyForm(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bytes of a layer that still come are, and what vouches for them."""

    digest: str
    """The blob's."""
    blob_path: str
    """A sparse file of imaged's; what is not here reads as zero."""
    size_bytes: int
    """The blob's, whole."""
    toc_offset: int
    toc_digest: str
    toc_bytes: int = 0
    """Compressed; 0 for all from its offset on."""
    media_type: str = ""
    """Of the layer; empty for gzip."""


class LayerRecord(Record, frozen=True, kw_only=True):
    """An unpacked layer; `id` is the hex of its diff ID, as its directory's name is."""

    diff_id: str
    size_bytes: int
    inodes: int
    created_at_ns: int
    tree: bool = True
    """It is kept as a directory tree."""
    image: bool = False
    """It is kept as an EROFS image."""
    implied: list[str] = msgspec.field(default_factory=list)
    """Directories that the layer goes through without an entry of their own; '' is the root."""
    lazy: LazyForm | None = None
    """Its bytes still come; it is kept as neither of both until they are here."""
    orphaned: bool = False
    """Nobody wants it any more but the snapshots that stand on it."""


class SnapshotRecord(Record, frozen=True, kw_only=True):
    """A mounted snapshot; `id` is its key."""

    layers: list[str]
    """Hex diff IDs, bottom first."""
    diff_ids: list[str]
    snapshotter: str
    readonly: bool
    path: str
    created_at_ns: int
    base_bytes: int = 0
    base_inodes: int = 0
    ids: IdMappings | None = None
    """Of the user namespace that uses it."""
    project: int = 0
    """Of the quota that bounds its writable directory; 0 for none."""
    max_bytes: int = 0
    """The bound, without the base."""
