"""The hostile corpus against a whole snapshotd: what it shows, what it refuses, what it costs, and that nothing gets out or stays."""

import dataclasses
import hashlib
import os
import secrets
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from common.errors import DataLossError, InvalidArgumentError, ResourceExhaustedError, SlipwayError
from services.snapshotd.tests import corpus
from services.snapshotd.tests.conftest import SnapshotdNode, snapshotd_node
from services.snapshotd.tests.reference import compose
from services.snapshotd.tests.test_snapshotd_layers import HAS_EROFS, SNAPSHOTTERS, E, apply, digest_of, tar
from snapshotd.diff import mkfs
from tests.support.eventually import eventually
from tests.support.memory import family, peak_bytes, watched

pytestmark = [pytest.mark.root, pytest.mark.integration, pytest.mark.anyio]
MAX_MEMORY_BYTES = 200 << 20
"""What snapshotd and all that it starts may take together (PSS), and snapshotd at its peak (VmHWM)."""
LAYER_BYTES = 64 << 20


@contextmanager
def within_bounds(node: SnapshotdNode, *, more_bytes: int = 0) -> Iterator[None]:
    """What the service and its helpers take while the block runs is bounded."""
    with watched([node.pid]) as watch:
        yield
    most = max(watch.most_bytes, peak_bytes(node.pid))
    assert most <= MAX_MEMORY_BYTES + more_bytes, f"{most >> 20} MiB"


@pytest.fixture(scope="module")
def host() -> Iterator[Path]:
    """A directory of the host, with a look of its own."""
    directory = Path(f"/var/tmp/slipway-host-{secrets.token_hex(4)}")
    (directory / "data/deep").mkdir(parents=True)
    (directory / "canary").write_text("alive")
    for path in (directory / "data/deep", directory / "data", directory):
        os.chown(path, 4321, 1234)
        path.chmod(0o2705)
    before = look_of(directory)
    yield directory
    assert look_of(directory) == before
    subprocess.run(["rm", "-rf", directory], check=True)


def look_of(root: Path) -> dict[str, tuple[object, ...]]:
    """As reference.compose has it."""
    kinds = {stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFIFO: "p", stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
    found: dict[str, tuple[object, ...]] = {}
    base = os.fsencode(root)
    waiting = [b""]
    while waiting:
        path = waiting.pop()
        place = base + b"/" + path if path else base
        try:
            status = os.lstat(place)
        except FileNotFoundError:
            continue  # overlayfs lists whiteouts in a directory that one layer alone has
        kind = kinds.get(stat.S_IFMT(status.st_mode), "f")
        content = ""
        if kind == "d":
            waiting += [path + b"/" + name if path else name for name in os.listdir(place)]
        elif kind == "l":
            content = os.fsdecode(os.readlink(place))
        elif kind == "f":
            content = hashlib.sha256(Path(os.fsdecode(place)).read_bytes()).hexdigest()
        elif kind in "cb":
            content = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        look = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        found[os.fsdecode(path)] = (kind, look, content, status.st_mtime if kind != "d" else None)
    return found


@pytest.fixture(scope="module")
def node() -> Iterator[SnapshotdNode]:
    """One service for the whole corpus: nothing stays of it, and it took little."""
    with for_corpus("overlayfs") as made:
        yield made


@pytest.fixture(scope="module")
def of_images() -> Iterator[SnapshotdNode]:
    """One that keeps layers as EROFS images alone."""
    with for_corpus("erofs") as made:
        yield made


@contextmanager
def for_corpus(snapshotter: str) -> Iterator[SnapshotdNode]:
    with snapshotd_node() as made:
        bounds = {"layer_max_entries": "5000", "layer_max_bytes": str(LAYER_BYTES)}
        made.start(snapshotter=snapshotter, sync="false", **bounds)
        with within_bounds(made):
            yield made
        assert_clean(made)


@pytest.fixture(params=["node", *(["of_images"] if HAS_EROFS else [])])
def keeper(request: pytest.FixtureRequest) -> SnapshotdNode:
    """Each of the services, which keep layers in different forms."""
    node: SnapshotdNode = request.getfixturevalue(request.param)
    return node


def assert_clean(node: SnapshotdNode) -> None:
    root = node.data / "snapshotd"
    for name in ("layers", "snapshots", "trash"):
        eventually(partial(_is_empty, root / name), within_s=600, what=f"the end of {name}")
    assert node.mounts() == []
    eventually(lambda: len(family([node.pid])) <= 2, what="the service alone with its nursery")


def _is_empty(place: Path) -> bool:
    return list(place.iterdir()) == []


def at(host: Path, entries: list[E]) -> list[E]:
    return [
        dataclasses.replace(entry, target=entry.target.replace(corpus.HOST, str(host))) for entry in entries
    ]


@pytest.mark.parametrize(
    ("name", "snapshotter"),
    [
        (name, each)
        for name in corpus.STACKS
        for each in SNAPSHOTTERS
        if (name, each) != (corpus.LONG, "erofs")
    ],
)
async def test_a_stack_shows_what_the_reference_shows(
    node: SnapshotdNode, host: Path, snapshotter: str, name: str
) -> None:
    layers = [at(host, entries) for entries in corpus.STACKS[name]]
    gnu = any("\udcff" in entry.name for entries in layers for entry in entries)
    diff_ids = [await apply(node, tar(entries, 1) if gnu else tar(entries)) for entries in layers]
    client = node.client()
    key = f"s{secrets.token_hex(6)}"
    try:
        made = await client.prepare(key, diff_ids, snapshotter)
        expected = {
            path: (*rest, None if rest[0] == "d" else mtime)
            for path, (*rest, mtime) in compose(layers).items()
        }
        assert look_of(node.seen(made.path)) == expected
    finally:
        await client.remove(key)
        await client.remove_layers(diff_ids)
        await client.close()


async def refused(
    node: SnapshotdNode,
    content: bytes,
    blob: bytes | None = None,
    *,
    kind: type[SlipwayError] = InvalidArgumentError,
) -> str:
    with pytest.raises(kind) as caught:
        await apply(node, content, blob)
    assert "\n" not in caught.value.message
    client = node.client()
    assert await client.list_layers([digest_of(content)]) == []
    await client.close()
    assert node.leftovers() == []
    return caught.value.message


@pytest.mark.parametrize("name", corpus.REFUSED)
async def test_what_no_layer_may_hold_is_refused(keeper: SnapshotdNode, host: Path, name: str) -> None:
    await refused(keeper, tar(at(host, corpus.REFUSED[name])))


@pytest.mark.parametrize("name", corpus.DAMAGED)
async def test_bytes_that_are_no_tar_are_refused_or_mean_nothing(keeper: SnapshotdNode, name: str) -> None:
    raw = corpus.DAMAGED[name]
    try:
        diff_id = await apply(keeper, raw)
    except (DataLossError, InvalidArgumentError) as exc:
        assert "\n" not in exc.message
    else:
        client = keeper.client()
        (layer,) = await client.list_layers([diff_id])
        assert layer.inodes <= 20
        await client.remove_layers([diff_id])
        await client.close()


async def test_floods_of_records_are_bounded(keeper: SnapshotdNode) -> None:
    for content in corpus.floods().values():
        try:
            diff_id = await apply(keeper, content)
        except SlipwayError as exc:
            assert len(exc.message) < 500
        else:
            client = keeper.client()
            await client.remove_layers([diff_id])
            await client.close()


async def test_bombs_end_at_the_bound(keeper: SnapshotdNode) -> None:
    for _, content, blob in corpus.bombs():
        with pytest.raises((InvalidArgumentError, DataLossError)):
            await apply(keeper, content, blob)
    assert keeper.leftovers() == []


@pytest.mark.parametrize("name", corpus.COMPRESSIONS)
async def test_a_blob_that_ends_early_is_data_loss_wherever_it_ends(keeper: SnapshotdNode, name: str) -> None:
    for blob in corpus.cuts(name):
        await refused(keeper, corpus.ONE, blob, kind=DataLossError)


def test_the_corpus_has_a_file_name_for_each_of_its_blobs() -> None:
    names = [name for name, _ in corpus.blobs()]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "/" in name or len(name) > 255]


async def test_another_content_than_the_diff_id_is_data_loss(keeper: SnapshotdNode) -> None:
    for other in (corpus.ONE + b"\0", tar([E("f", "n", b"other")])):
        assert "has the digest" in await refused(keeper, corpus.ONE, other, kind=DataLossError)


async def test_a_hole_as_large_as_a_layer_may_be_takes_no_disk_and_a_larger_one_is_refused(
    keeper: SnapshotdNode,
) -> None:
    content = corpus.sparse(LAYER_BYTES - 4096)
    diff_id = await apply(keeper, content)
    client = keeper.client()
    (layer,) = await client.list_layers([diff_id])
    assert layer.size_bytes < 1 << 20
    await client.remove_layers([diff_id])
    await client.close()
    await refused(keeper, corpus.sparse(1 << 50))


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
async def test_a_million_files_in_one_directory(tmp_path: Path, snapshotter: str) -> None:
    count = 1_000_000
    corpus.many(count, tmp_path / "blob")
    digest = subprocess.run(
        ["sha256sum", tmp_path / "blob"], check=True, capture_output=True, text=True
    ).stdout.split()[0]
    with snapshotd_node() as node:
        node.start(sync="false")
        client = node.client(timeout_s=900)
        with within_bounds(node, more_bytes=mkfs.MAX_MEMORY_BYTES if snapshotter == "erofs" else 0):
            try:
                await client.apply_layer(diff_id=f"sha256:{digest}", blob_path=str(tmp_path / "blob"))
                made = await client.prepare("s1", [f"sha256:{digest}"], snapshotter)
            except ResourceExhaustedError as exc:
                assert (snapshotter, "too many entries" in exc.message) == ("erofs", True), exc.message
            else:
                with os.scandir(node.seen(made.path) / "d") as found:
                    assert sum(1 for _ in found) == count
                await client.remove("s1")
            await client.remove_layers([f"sha256:{digest}"])
        await client.close()
        assert_clean(node)


@pytest.mark.long
@pytest.mark.timeout(3000)
async def test_bombs_of_gigabytes(tmp_path: Path) -> None:
    with snapshotd_node() as node:
        node.start(sync="false")
        client = node.client(timeout_s=900)
        # as large as the settings allow; whether it can be, the disk says
        hole = corpus.sparse((128 << 30) - 4096)
        digest = digest_of(hole)
        (tmp_path / "hole").write_bytes(hole)
        zeros = tmp_path / "zeros.gz"
        subprocess.run(["sh", "-c", f"head -c {4 << 30} /dev/zero | gzip -1 > {zeros}"], check=True)
        with within_bounds(node):
            layer = await client.apply_layer(diff_id=digest, blob_path=str(tmp_path / "hole"))
            assert layer.size_bytes < 1 << 20
            await client.remove_layers([digest])
            with pytest.raises((DataLossError, InvalidArgumentError)):
                await client.apply_layer(diff_id="sha256:" + "0" * 64, blob_path=str(zeros))
        await client.close()
        assert_clean(node)
