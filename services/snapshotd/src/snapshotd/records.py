"""The records of snapshotd: it is their only writer."""

from typing import NewType

import msgspec

from common.records import Record
from common.sys.userns import IdMappings

SnapshotKey = NewType("SnapshotKey", str)
OVERLAYFS = "overlayfs"
NATIVE = "native"
EROFS = "erofs"


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
