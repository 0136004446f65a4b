"""Overlayfs on kernels that take all mount options in one page; forced here, so that every kernel runs it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.sys import linux
from common.sys.userns import IdMapping, IdMappings
from snapshotd.adapters.overlay import MAX_LAYERS, OverlaySnapshotter
from snapshotd.records import LayerRecord

pytestmark = [pytest.mark.root, pytest.mark.integration]

MAPPED = IdMappings(IdMapping(0, 100_000, 65_536), IdMapping(0, 200_000, 65_536))


def layer_record(key: str) -> LayerRecord:
    return LayerRecord(id=key, diff_id=f"sha256:{key}", size_bytes=0, inodes=1, created_at_ns=0)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Overlayfs takes no upper directory on another overlay; old kernels map no ids on tmpfs."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.check_output(["stat", "-fc", "%T", disk], text=True).strip() != "overlayfs":
        yield disk
        return
    linux.mount("tmpfs", str(disk), "tmpfs")
    yield disk
    linux.umount(str(disk))


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("ids", [None, MAPPED])
def test_as_many_layers_as_overlayfs_takes_fit_into_one_page(
    disk: Path, readonly: bool, ids: IdMappings | None
) -> None:
    layers = [layer_record(f"{number:064}") for number in range(MAX_LAYERS)]
    for layer in layers:
        root = disk / "layers" / layer.id / "fs"
        root.mkdir(parents=True)
        (root / layer.id).touch()
    directory, empty, target = disk / "snapshot", disk / "empty", disk / "target"
    directory.mkdir()
    empty.mkdir()
    snapshotter = OverlaySnapshotter(lambda layer: disk / "layers" / layer.id / "fs", empty)
    snapshotter.one_by_one = False
    snapshotter.prepare(directory, layers, readonly=readonly, ids=ids)
    snapshotter.mount(directory, target, layers, readonly=readonly, ids=ids)
    try:
        seen = {path.name: path.stat() for path in target.iterdir()}
        assert seen.keys() == {layer.id for layer in layers}
        owner = (ids.uids.host_id, ids.gids.host_id) if ids else (0, 0)
        assert {(status.st_uid, status.st_gid) for status in seen.values()} == {owner}
    finally:
        linux.umount(str(target))
    assert not list(empty.iterdir())


@pytest.mark.parametrize("ids", [None, MAPPED])
def test_an_image_without_layers_is_mounted(disk: Path, ids: IdMappings | None) -> None:
    directory, empty, target = disk / "snapshot", disk / "empty", disk / "target"
    directory.mkdir()
    empty.mkdir()
    snapshotter = OverlaySnapshotter(lambda layer: disk / "layers" / layer.id / "fs", empty)
    snapshotter.one_by_one = False
    snapshotter.prepare(directory, [], readonly=False, ids=ids)
    snapshotter.mount(directory, target, [], readonly=False, ids=ids)
    try:
        (target / "made").touch()
        assert (directory / "upper" / "made").exists()
    finally:
        linux.umount(str(target))
