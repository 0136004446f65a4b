"""Overlayfs on kernels that take all mount options in one page; forced here, so that every kernel runs it."""

from pathlib import Path

import pytest

from common.sys import linux
from snapshotd.adapters.overlay import OverlaySnapshotter
from snapshotd.records import LayerRecord

pytestmark = [pytest.mark.root, pytest.mark.integration]


def layer_record(key: str) -> LayerRecord:
    return LayerRecord(id=key, diff_id=f"sha256:{key}", size_bytes=0, inodes=1, created_at_ns=0)


@pytest.mark.parametrize("readonly", [False, True])
def test_many_layers_fit_into_one_page(tmp_path: Path, readonly: bool) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    linux.mount("tmpfs", str(disk), "tmpfs")  # overlayfs takes no upper directory on another overlay
    target = disk / "target"
    try:
        layers = [layer_record(f"{number:064}") for number in range(127)]
        for layer in layers:
            root = disk / "layers" / layer.id / "fs"
            root.mkdir(parents=True)
            (root / layer.id).touch()
        directory, empty = disk / "snapshot", disk / "empty"
        directory.mkdir()
        empty.mkdir()
        snapshotter = OverlaySnapshotter(disk / "layers", empty)
        snapshotter.one_by_one = False
        snapshotter.prepare(directory, layers, readonly=readonly, ids=None)
        snapshotter.mount(directory, target, layers, readonly=readonly, ids=None)
        try:
            assert {path.name for path in target.iterdir()} == {layer.id for layer in layers}
        finally:
            linux.umount(str(target))
    finally:
        linux.umount(str(disk))
