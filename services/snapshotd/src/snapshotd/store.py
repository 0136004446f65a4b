"""Where layers and snapshots lie, and the copy of a snapshot's record beside it."""

from pathlib import Path

import msgspec

from common.observe.log import get_logger
from common.sys.files import spread_below
from snapshotd.records import LayerRecord, SnapshotRecord

RECORD_FILE = "record.msgpack"
TREE = "fs"
IMAGE = "layer.erofs"
"""What may be in a layer's directory, at least one of them."""
NEW_PREFIX = ".new-"
"""Begins the name of a directory that is not whole yet; no key and no digest begins so."""
_log = get_logger("store")


class Places:
    """The directories below data_dir/snapshotd; made when they are not there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layers = root / "layers"
        self.snapshots = root / "snapshots"
        self.trash = root / "trash"
        self.empty = root / "empty"
        for path in (self.layers, self.snapshots, self.trash):
            path.mkdir(mode=0o700, exist_ok=True)
        self.empty.mkdir(mode=0o755, exist_ok=True)
        for path in (self.layers, self.snapshots):
            spread_below(path)

    def layer(self, layer_id: str) -> Path:
        return self.layers / layer_id

    def tree(self, layer_id: str) -> Path:
        return self.layers / layer_id / TREE

    def image(self, layer_id: str) -> Path:
        return self.layers / layer_id / IMAGE

    def has(self, layer: LayerRecord) -> bool:
        """Whether all is there that the record says."""
        tree = not layer.tree or self.tree(layer.id).is_dir()
        image = not layer.image or self.image(layer.id).is_file()
        return tree and image and (not layer.lazy or Path(layer.lazy.blob_path).is_file())

    def snapshot(self, key: str) -> Path:
        return self.snapshots / key


def write_copy(directory: Path, record: SnapshotRecord) -> None:
    """Keep a copy for a Redis that forgets; not synced, since Redis keeps the record as well."""
    (directory / RECORD_FILE).write_bytes(msgspec.msgpack.encode(record))


def read_copy(directory: Path) -> SnapshotRecord | None:
    """The copy in a snapshot's directory; None when it is missing or unreadable."""
    try:
        return msgspec.msgpack.decode((directory / RECORD_FILE).read_bytes(), type=SnapshotRecord)
    except (OSError, msgspec.MsgspecError) as exc:
        _log.warning("snapshot.copy_unreadable", path=str(directory), error=str(exc))
        return None
