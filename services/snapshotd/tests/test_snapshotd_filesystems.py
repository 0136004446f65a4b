"""The same snapshots where data_dir is on another filesystem than the machine's: btrfs and XFS."""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from services.snapshotd.tests.conftest import SnapshotdNode, snapshotd_node
from services.snapshotd.tests.test_snapshotd_layers import (  # noqa: F401 - run here once more
    E,
    snapshot,
    tar,
    test_attributes_survive,
    test_holes_stay_holes,
    test_implied_directory_keeps_the_lower_layers_look,
    test_names_that_are_not_utf8_survive,
    test_readonly_snapshot_takes_no_write,
    test_snapshot_shows_the_composed_tree,
)

pytestmark = [pytest.mark.root, pytest.mark.integration, pytest.mark.anyio]
FILESYSTEMS = [name for name in ("btrfs", "xfs") if shutil.which(f"mkfs.{name}")]
LARGE_BYTES = 32 << 20


@pytest.fixture(scope="module", params=FILESYSTEMS)
def shared_snapshotd(request: pytest.FixtureRequest) -> Iterator[SnapshotdNode]:
    with snapshotd_node() as node:
        image = node.directory / "disk"
        with image.open("wb") as file:
            file.truncate(600 << 20)
        subprocess.run([f"mkfs.{request.param}", "-q", str(image)], check=True, timeout=60)
        mounted = node.within("mount", "-o", "loop", str(image), str(node.data))
        if mounted.returncode:
            pytest.skip(f"no {request.param} in this kernel: {mounted.stderr}")
        node.start(max_unpacks="2", layer_max_entries="2000", layer_max_bytes=str(64 << 20))
        try:
            yield node
        finally:
            node.stop()
            node.unmount_all()


async def test_a_copy_shares_its_bytes_with_the_layer(shared_snapshotd: SnapshotdNode) -> None:
    layer = tar([E("f", "large", os.urandom(LARGE_BYTES))])
    roots = [await snapshot(shared_snapshotd, "native", layer) for _ in range(8)]
    disk = os.statvfs(shared_snapshotd.seen(shared_snapshotd.data))
    assert (disk.f_blocks - disk.f_bfree) * disk.f_frsize < 4 * LARGE_BYTES
    (roots[0] / "large").write_bytes(b"the container's")
    assert {(root / "large").stat().st_size for root in roots[1:]} == {LARGE_BYTES}
