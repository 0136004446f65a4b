"""Snapshots that begin with a diff of their own: what a container wrote elsewhere, friendly and hostile."""

import os
from pathlib import Path

import pytest

from common.api.snapshots.v1 import snapshots_pb2 as pb
from common.errors import DataLossError, InvalidArgumentError, NotFoundError
from common.sys.userns import IdMapping, IdMappings
from services.snapshotd.tests.conftest import SnapshotdNode
from services.snapshotd.tests.test_snapshotd_layers import (
    BASE,
    REST,
    SNAPSHOTTERS,
    E,
    apply,
    digest_of,
    tar,
    tree,
)

pytestmark = [pytest.mark.root, pytest.mark.integration, pytest.mark.anyio]
DIFF = [
    E("d", "./", mode=0o711),
    E("d", "etc/", mode=0o700, uid=5),
    E("f", "etc/a", b"mine", mode=0o4755),
    E("c", "etc/b"),
    E("d", "etc/d/"),
    E("f", "etc/d/.wh..wh..opq"),
    E("f", "etc/d/z", b"new"),
    E("c", "etc/null", device=(1, 3)),
]


def diff_of(node: SnapshotdNode, content: bytes) -> pb.Diff:
    path = node.directory / "rootfs-diff.tar"
    path.write_bytes(content)
    return pb.Diff(path=str(path), digest=digest_of(content))


def snapshots_of(node: SnapshotdNode) -> list[str]:
    return [path.name for path in (node.data / "snapshotd/snapshots").iterdir()]


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
async def test_a_diff_lies_above_the_layers_and_is_the_snapshots_own(
    snapshotd: SnapshotdNode, snapshotter: str
) -> None:
    snapshotd.stop()
    snapshotd.start(usage_interval_s="0.001")
    layer = await apply(snapshotd, tar(BASE))
    client = snapshotd.client()
    big = E("f", "etc/big", os.urandom(2 << 20))
    diff = diff_of(snapshotd, tar([*DIFF, big]))
    made = await client.prepare("c1", [layer], snapshotter, diff=diff)
    assert await client.prepare("c1", [layer], snapshotter, diff=diff) == made
    root = Path(snapshotd.seen(made.path))
    (root / "etc/big").unlink()
    gone = ("etc/b", "etc/d/x", "etc/d/y")
    wanted = {name: text for name, text in REST.items() if name not in gone}
    assert tree(root) == wanted | {"etc/a": "mine", "etc/d/z": "new", "etc/null": "char"}
    status = (root / "etc").stat()
    assert (status.st_mode & 0o7777, status.st_uid) == (0o700, 5)
    assert (root / "etc/a").stat().st_mode & 0o7777 == 0o4755
    assert root.stat().st_mode & 0o7777 == 0o711
    assert snapshots_of(snapshotd) == ["c1"]
    assert len(await client.list_layers()) == 1
    await client.remove("c1")
    again = await client.prepare("c2", [layer], snapshotter)
    assert tree(Path(snapshotd.seen(again.path))) == REST
    await client.close()


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
async def test_usage_counts_a_diff(snapshotd: SnapshotdNode, snapshotter: str) -> None:
    layer = await apply(snapshotd, tar(BASE))
    client = snapshotd.client()
    diff = diff_of(snapshotd, tar([E("f", "big", os.urandom(2 << 20))]))
    await client.prepare("c1", [layer], snapshotter, diff=diff)
    (usage,) = (await client.usage(["c1"])).usages
    assert usage.used_bytes >= 2 << 20
    await client.close()


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
async def test_a_diff_that_says_nothing_of_the_root_leaves_it_as_the_layers_made_it(
    snapshotd: SnapshotdNode, snapshotter: str
) -> None:
    layer = await apply(snapshotd, tar([E("d", "./", mode=0o1751, uid=3), E("f", "a", b"a")]))
    client = snapshotd.client()
    diff = diff_of(snapshotd, tar([E("f", "written", b"x")]))
    made = await client.prepare("c1", [layer], snapshotter, diff=diff)
    status = Path(snapshotd.seen(made.path)).stat()
    assert (status.st_mode & 0o7777, status.st_uid) == (0o1751, 3)
    await client.close()


IMPLYING = (
    [E("d", "tmp/", mode=0o1777), E("d", "data/", mode=0o700, uid=1000), E("d", "var/", mode=0o711, uid=7)],
    [E("f", "tmp/x", b"x"), E("f", "data/sub/y", b"y"), E("f", "var/z", b"z")],
)
OVER = {
    "tells nothing of them": [E("f", "srv/s", b"s")],
    "goes through them": [E("f", "tmp/s", b"s"), E("f", "data/sub/s", b"s")],
    "describes one": [E("d", "data/", mode=0o750, uid=2), E("f", "data/sub/s", b"s")],
    "hides one": [E("f", "data/.wh..wh..opq"), E("f", ".wh.tmp"), E("f", "var", b"a file")],
}


def dressed(root: Path) -> dict[str, tuple[int, int]]:
    found = {str(path.relative_to(root)): path.lstat() for path in (root, *root.rglob("*"))}
    return {name: (status.st_mode, status.st_uid) for name, status in found.items()}


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
@pytest.mark.parametrize("case", OVER)
async def test_directories_look_below_a_diff_as_below_a_layer(
    snapshotd: SnapshotdNode, snapshotter: str, case: str
) -> None:
    layers = [await apply(snapshotd, tar(entries)) for entries in IMPLYING]
    client = snapshotd.client()
    wanted = await client.prepare("c1", [*layers, await apply(snapshotd, tar(OVER[case]))], snapshotter)
    made = await client.prepare("c2", layers, snapshotter, diff=diff_of(snapshotd, tar(OVER[case])))
    looks = dressed(snapshotd.seen(made.path))
    assert looks == dressed(snapshotd.seen(wanted.path))
    if "hides" not in case:
        assert [looks[name][0] & 0o7777 for name in ("tmp", "var")] == [0o1777, 0o711]
        assert looks["data"] in ((0o40700, 1000), (0o40750, 2))
    await client.close()


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
async def test_what_was_written_comes_back_between_directories_as_they_were(
    snapshotd: SnapshotdNode, snapshotter: str
) -> None:
    layers = [await apply(snapshotd, tar(entries)) for entries in IMPLYING]
    client = snapshotd.client()
    first = await client.prepare("c1", layers, snapshotter)
    (snapshotd.seen(first.path) / "data/sub/new").write_bytes(b"new")
    path = snapshotd.directory / "written"
    await client.write_diff("c1", str(path))
    again = await client.prepare("c2", layers, snapshotter, diff=diff_of(snapshotd, path.read_bytes()))
    assert dressed(snapshotd.seen(again.path)) == dressed(snapshotd.seen(first.path))
    await client.close()


HOSTILE = {
    "a way upwards": [E("f", "../../../escaped", b"x")],
    "a hard link to what is not in it": [E("h", "x", target="etc/a")],
    "a file as a directory": [E("f", "x", b"x"), E("f", "x/y", b"y")],
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_diff_leaves_nothing(snapshotd: SnapshotdNode, case: str) -> None:
    layer = await apply(snapshotd, tar(BASE))
    client = snapshotd.client()
    with pytest.raises(InvalidArgumentError, match="diff"):
        await client.prepare("c1", [layer], diff=diff_of(snapshotd, tar(HOSTILE[case])))
    assert (snapshots_of(snapshotd), snapshotd.mounts()) == ([], [])
    with pytest.raises(NotFoundError):
        await client.get("c1")
    await client.close()


async def test_a_diffs_links_do_not_lead_out(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    outside = snapshotd.directory / "outside"
    outside.mkdir()
    diff = diff_of(snapshotd, tar([E("l", "out", target=str(outside)), E("f", "out/x", b"x")]))
    made = await client.prepare("c1", [], diff=diff)
    assert not list(outside.iterdir())
    assert Path(snapshotd.seen(f"{made.path}{outside}/x")).read_bytes() == b"x"
    await client.close()


async def test_a_diff_must_have_its_digest_and_a_fitting_snapshot(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    diff = diff_of(snapshotd, tar(DIFF))
    with pytest.raises(DataLossError, match="digest"):
        await client.prepare("c1", [], diff=pb.Diff(path=diff.path, digest=digest_of(b"other")))
    with pytest.raises(InvalidArgumentError, match="digest"):
        await client.prepare("c1", [], diff=pb.Diff(path=diff.path, digest="latest"))
    with pytest.raises(InvalidArgumentError, match="writable"):
        await client.prepare("c1", [], readonly=True, diff=diff)
    ids = IdMappings(IdMapping(0, 70_000, 65_536), IdMapping(0, 70_000, 65_536))
    with pytest.raises(InvalidArgumentError, match="mapped"):
        await client.prepare("c1", [], ids=ids, diff=diff)
    assert (snapshots_of(snapshotd), snapshotd.mounts()) == ([], [])
    await client.close()
