"""Layers as EROFS images: made once, mounted once, found again, unmounted when nothing stands on them."""

import os
import subprocess
from pathlib import Path

import pytest

from common.errors import FailedPreconditionError
from services.snapshotd.tests.conftest import SnapshotdNode
from services.snapshotd.tests.test_snapshotd_layers import BASE, HAS_EROFS, REST, E, apply, tar, tree, without
from snapshotd.adapters.erofs import ErofsImages, _run, mount_by_loop

pytestmark = [
    pytest.mark.root,
    pytest.mark.integration,
    pytest.mark.anyio,
    pytest.mark.skipif(not HAS_EROFS, reason="erofs-utils is not installed"),
]
UPPER = [E("f", "etc/.wh.a"), E("d", "etc/d/"), E("f", "etc/d/.wh..wh..opq"), E("f", "etc/d/z", b"z1")]
BOTH = without("etc/a", "etc/d") | {"etc/d": "dir", "etc/d/z": "z1"}


def images(node: SnapshotdNode) -> list[str]:
    """Layers whose images are mounted."""
    prefix = f"{node.run}/snapshotd/layers/"
    points = [line.split()[4] for line in Path(f"/proc/{node.holder}/mountinfo").read_text().splitlines()]
    return sorted(f"sha256:{point.removeprefix(prefix)}" for point in points if point.startswith(prefix))


def forms(node: SnapshotdNode, diff_id: str) -> set[str]:
    directory = node.data / "snapshotd/layers" / diff_id.removeprefix("sha256:")
    return {path.name for path in directory.iterdir()} & {"fs", "layer.erofs"}


async def test_a_layer_becomes_an_image_when_a_snapshot_asks_for_it(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    layers = [await apply(snapshotd, tar(BASE)), await apply(snapshotd, tar(UPPER))]
    before = (await client.fs_info()).layer_bytes
    assert forms(snapshotd, layers[0]) == {"fs"}
    first, second = [await client.prepare(key, layers, "erofs") for key in ("c1", "c2")]
    assert images(snapshotd) == sorted(layers)  # once for both
    assert tree(snapshotd.seen(first.path)) == tree(snapshotd.seen(second.path)) == BOTH
    assert forms(snapshotd, layers[0]) == {"fs", "layer.erofs"}
    image = snapshotd.data / "snapshotd/layers" / layers[0].removeprefix("sha256:") / "layer.erofs"
    assert (await client.fs_info()).layer_bytes >= before + image.stat().st_blocks * 512
    await client.remove("c1")
    assert images(snapshotd) == sorted(layers)
    await client.remove("c2")
    assert images(snapshotd) == []
    await client.close()


async def test_images_are_found_again_after_a_kill_and_made_up_for_after_a_reboot(
    snapshotd: SnapshotdNode,
) -> None:
    client = snapshotd.client()
    layers = [await apply(snapshotd, tar(BASE)), await apply(snapshotd, tar(UPPER))]
    made = await client.prepare("c1", layers, "erofs")
    snapshotd.kill()
    snapshotd.start()
    assert images(snapshotd) == sorted(layers)
    assert tree(snapshotd.seen(made.path)) == BOTH
    snapshotd.kill()
    inside = ["nsenter", f"--mount=/proc/{snapshotd.holder}/ns/mnt", "--"]
    mounted = [made.path, *(f"{snapshotd.run}/snapshotd/layers/{layer[7:]}" for layer in layers)]
    subprocess.run([*inside, "umount", *mounted], check=True)
    snapshotd.start()
    assert tree(snapshotd.seen(made.path)) == BOTH
    assert images(snapshotd) == sorted(layers)
    await client.remove("c1")
    assert images(snapshotd) == []
    await client.close()


async def test_a_mounted_image_that_nothing_stands_on_goes_at_start(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    layer = await apply(snapshotd, tar(BASE))
    await client.prepare("c1", [layer], "erofs")
    snapshotd.kill()
    inside = ["nsenter", f"--mount=/proc/{snapshotd.holder}/ns/mnt", "--"]
    subprocess.run([*inside, "umount", f"{snapshotd.run}/snapshotd/mounts/c1"], check=True)
    subprocess.run(["rm", "-rf", snapshotd.data / "snapshotd/snapshots/c1"], check=True)
    snapshotd.start()
    assert images(snapshotd) == []
    await client.close()


async def test_as_the_default_it_keeps_images_only_which_every_snapshotter_can_use(
    snapshotd: SnapshotdNode,
) -> None:
    snapshotd.stop()
    snapshotd.start(snapshotter="erofs")
    client = snapshotd.client()
    layers = [await apply(snapshotd, tar(BASE)), await apply(snapshotd, tar(UPPER))]
    assert forms(snapshotd, layers[0]) == {"layer.erofs"}
    for name in ("", "overlayfs", "native"):
        made = await client.prepare(f"c{name}", layers, name)
        assert tree(snapshotd.seen(made.path)) == BOTH, name
        (snapshotd.seen(made.path) / "etc/b").unlink()
        changed = [os.fsdecode(change.path) async for change in client.changes(f"c{name}")]
        assert changed == ["/etc", "/etc/b"], name
    snapshotd.kill()
    snapshotd.start()
    assert [layer.diff_id for layer in await client.list_layers(layers)] == layers
    for name in ("", "overlayfs", "native"):
        await client.remove(f"c{name}")
    assert images(snapshotd) == []
    await client.remove_layers(layers)
    assert list((snapshotd.data / "snapshotd/layers").iterdir()) == []
    await client.close()


async def test_deep_and_sparse_layers_fit_into_an_image(snapshotd: SnapshotdNode, tmp_path: Path) -> None:
    (tmp_path / "in" / "/".join(["d"] * 900)).mkdir(parents=True)
    with (tmp_path / "in/sparse").open("wb") as file:
        file.truncate(256 << 20)
    command: list[str | Path] = ["tar", "-C", tmp_path / "in", "--sparse", "--format=pax", "-cf", "-", "."]
    content = subprocess.run(command, check=True, capture_output=True).stdout
    layer = await apply(snapshotd, content)
    client = snapshotd.client()
    made = await client.prepare("c1", [layer], "erofs")
    root = snapshotd.seen(made.path)
    assert (root / "/".join(["d"] * 900)).is_dir()
    assert (root / "sparse").stat().st_size == 256 << 20
    assert (await client.fs_info()).layer_bytes < 16 << 20
    await client.close()


async def test_without_the_program_it_says_what_is_missing(
    snapshotd: SnapshotdNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = snapshotd.client()
    layer = await apply(snapshotd, tar(BASE))
    snapshotd.stop()
    for name in ("nsenter", "rm"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path))
    snapshotd.start()
    with pytest.raises(FailedPreconditionError, match=r"mkfs\.erofs is not installed"):
        await client.prepare("c1", [layer], "erofs")
    assert tree(snapshotd.seen((await client.prepare("c1", [layer])).path)) == REST
    await client.close()


async def test_what_writes_an_image_sees_a_tree_and_may_write_one_file(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a").write_text("a0")
    (tmp_path / "image").touch()
    paths = [str(tmp_path / "tree"), str(tmp_path / "image")]
    status, said = await _run([*paths, "sh", "-c", "echo $$ /* > /image; (true)"])
    assert (status, "Cannot fork" in said) == (2, True), said
    pid, *shown = (tmp_path / "image").read_text().split()
    assert pid == "1"
    assert set(shown) - {"/bin", "/sbin", "/lib", "/lib64"} == {"/image", "/tree", "/usr"}
    for place in ("/tree/b", "/usr/b"):
        assert "Read-only file system" in (await _run([*paths, "sh", "-c", f"echo 1 > {place}"]))[1]
    status, said = await _run([*paths, "mount", "-n", "-t", "tmpfs", "x", "/tree"])
    assert (status, "mount" in said) == (32, True), said
    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["a"]


async def test_an_image_can_be_mounted_by_a_loop_device(tmp_path: Path) -> None:
    """As kernels before Linux 6.12 need it."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a").write_text("a0")
    await ErofsImages(60).write(tmp_path / "tree", tmp_path / "image")
    mount_by_loop(tmp_path / "image", tmp_path / "target")
    try:
        assert (tmp_path / "target/a").read_text() == "a0"
        assert os.statvfs(tmp_path / "target").f_flag & os.ST_RDONLY
    finally:
        subprocess.run(["umount", tmp_path / "target"], check=True)
