"""A whole snapshotd over its socket: keys, layers, uses, mounts, a full disk."""

import gc
import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from common import failpoint
from common.api.snapshots.v1 import snapshots_pb2 as pb
from common.clients.snapshotd import SnapshotdClient
from common.errors import (
    AlreadyExistsError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from common.records import RecordStore
from common.records.redis import connect
from common.sys.userns import IdMapping, IdMappings
from services.snapshotd.tests.blobs import apply, events, make_blob
from services.snapshotd.tests.conftest import SnapshotdNode
from services.snapshotd.tests.test_snapshotd_layers import HAS_EROFS, SNAPSHOTTERS, E, tar
from services.snapshotd.tests.test_snapshotd_layers import apply as apply_layer
from snapshotd.adapters.overlay import MAX_REPAIRS
from snapshotd.layers import Layers
from snapshotd.records import LayerRecord
from tests.support.eventually import eventually, until
from tests.support.pace import patience

pytestmark = [pytest.mark.root, pytest.mark.integration, pytest.mark.anyio]


async def test_a_user_namespace_sees_its_own_ids(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    layer = await apply(snapshotd, client, "a")
    ids = IdMappings(IdMapping(0, 70_000, 65_536), IdMapping(0, 80_000, 65_536))
    first: dict[str, pb.Snapshot] = {}
    for name in ("overlayfs", "native"):
        for readonly in (False, True):
            made = await client.prepare(f"{name}-{readonly}", [layer], name, readonly=readonly, ids=ids)
            first[made.key] = made
            for path in ("", "a"):
                status = (snapshotd.seen(made.path) / path).stat()
                assert (status.st_uid, status.st_gid) == (70_000, 80_000), (made, path)
    assert await client.prepare("overlayfs-False", [layer], ids=ids) == first["overlayfs-False"]
    with pytest.raises(AlreadyExistsError):
        await client.prepare("overlayfs-False", [layer])
    empty = await client.prepare("empty", [], ids=ids)
    assert snapshotd.seen(empty.path).stat().st_uid == 70_000
    # what maps ids is in the snapshots alone: the service has no mount more
    assert snapshotd.mounts() == sorted(
        ["empty", "native-False", "native-True", "overlayfs-False", "overlayfs-True"]
    )
    plain = await client.prepare("plain", [layer])
    assert (snapshotd.seen(plain.path) / "a").stat().st_uid == 0


async def test_prepare_is_idempotent_by_key(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    a, b = await apply(snapshotd, client, "a"), await apply(snapshotd, client, "b")
    first = await client.prepare("c1", [a, b])
    assert await client.prepare("c1", [a, b], "overlayfs") == first
    assert first.path == f"{snapshotd.run}/snapshotd/mounts/c1"
    for wrong in (([a], ""), ([b, a], ""), ([a, b], "native")):
        with pytest.raises(AlreadyExistsError, match="c1"):
            await client.prepare("c1", *wrong)
    with pytest.raises(AlreadyExistsError):
        await client.prepare("c1", [a, b], readonly=True)
    assert await client.get("c1") == first
    assert [s.key for s in await client.list()] == ["c1"]
    assert snapshotd.mounts() == ["c1"]
    await client.close()


async def test_same_prepare_from_many_callers_makes_one(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    layer = await apply(snapshotd, client, "a")
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(client.prepare, "c1", [layer])
    assert snapshotd.mounts() == ["c1"]
    assert [e for e in events(snapshotd) if e[0] == "prepared"] == [("prepared", "c1")]
    await client.close()


async def test_bad_arguments_are_named(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    for key in ("", "../x", "a/b", ".new-x", "-x", "k" * 129, "a b"):
        with pytest.raises(InvalidArgumentError, match="key"):
            await client.prepare(key, [])
        await client.remove(key)
    missing = "sha256:" + "5" * 64
    with pytest.raises(NotFoundError, match=missing):
        await client.prepare("c1", [missing])
    with pytest.raises(InvalidArgumentError, match="zfs"):
        await client.prepare("c1", [], "zfs")
    with pytest.raises(InvalidArgumentError, match="digest"):
        await client.prepare("c1", ["latest"])
    with pytest.raises(NotFoundError):
        await client.get("c1")
    assert snapshotd.mounts() == []
    assert list((snapshotd.data / "snapshotd/snapshots").iterdir()) == []
    await client.close()


async def test_layers_that_are_slow_to_be_served_hold_up_no_snapshot(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client(patience(10))
    layer = await apply(snapshotd, client, "a")
    never = snapshotd.directory / "never"
    os.mkfifo(never)  # opened when there is a writer, which does not come

    whole = tar([E("f", "came", b"first")])
    diff_id = f"sha256:{hashlib.sha256(whole).hexdigest()}"

    async def serve(number: int) -> None:
        await client.serve_layer(
            diff_id=f"sha256:{number:064x}" if number else diff_id,
            digest=f"sha256:{number:064x}",
            blob_path=str(never),
            media_type="",
            size_bytes=4096,
            toc_offset=0,
            toc_bytes=4096,
            toc_digest=layer,
        )

    async def refused() -> None:
        with pytest.raises(FailedPreconditionError, match="came before its turn"):
            await serve(0)

    layers = snapshotd.data / "snapshotd/layers"
    async with anyio.create_task_group() as group:
        for number in range(1, 45):
            group.start_soon(serve, number)
        await anyio.to_thread.run_sync(
            lambda: eventually(lambda: len(list(layers.iterdir())) >= 40, what="layers to serve")
        )
        await client.prepare("c1", [layer])
        if HAS_EROFS:
            await client.prepare("c2", [layer], "erofs")  # mounts its image
        # what is all here by now need not be served
        async with anyio.create_task_group() as unserved:
            unserved.start_soon(refused)
            await anyio.to_thread.run_sync(
                lambda: eventually((layers / diff_id.partition(":")[2]).exists, what="the last layer")
            )
            await apply_layer(snapshotd, whole)
        group.cancel_scope.cancel()
    snapshotd.kill()
    await client.close()


async def test_layers_that_would_have_each_snapshot_make_directories_without_end_are_refused(
    snapshotd: SnapshotdNode,
) -> None:
    names = [f"d{number}" for number in range(MAX_REPAIRS + 1)]
    described = tar([E("d", f"{name}/", mode=0o711) for name in names])
    entered = tar([E("f", f"{name}/f") for name in names])
    layers = [await apply_layer(snapshotd, content) for content in (described, entered)]
    client = snapshotd.client()
    with pytest.raises(InvalidArgumentError, match=layers[1].removeprefix("sha256:")):
        await client.prepare("c1", layers)
    assert (await client.list(), snapshotd.mounts()) == ([], [])
    await client.prepare("c1", layers[:1])
    await client.close()


async def test_one_unpacking_serves_all_callers_and_outlives_their_deadline(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    diff_id, path = make_blob(snapshotd, "big", os.urandom(48 << 20))
    with pytest.raises(DeadlineExceededError):
        await client.apply_layer(diff_id=diff_id, blob_path=path, timeout_s=0.03)
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(lambda: client.apply_layer(diff_id=diff_id, blob_path=path))
    assert [e[0] for e in events(snapshotd)] == ["layer_unpacked"]
    await client.close()


async def test_right_blob_succeeds_beside_a_wrong_one(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    diff_id, path = make_blob(snapshotd, "right", os.urandom(1 << 20))
    _, wrong = make_blob(snapshotd, "wrong", os.urandom(1 << 20))

    async def wrong_one() -> None:
        try:
            layer = await client.apply_layer(diff_id=diff_id, blob_path=wrong)
        except DataLossError as exc:
            assert diff_id in exc.message
        else:
            assert layer.diff_id == diff_id  # the right one was first, and its layer is the answer

    async with anyio.create_task_group() as group:
        group.start_soon(wrong_one)
        group.start_soon(lambda: client.apply_layer(diff_id=diff_id, blob_path=path))
        # whichever came first, the right one is here in the end
    assert len(await client.list_layers([diff_id])) == 1
    await client.close()


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
async def test_usage_counts_what_the_container_wrote(snapshotd: SnapshotdNode, snapshotter: str) -> None:
    armed = snapshotd.run / failpoint.DIRECTORY
    armed.mkdir()
    snapshotd.stop()
    snapshotd.start(usage_interval_s="0.1")
    client = snapshotd.client()
    layer = await apply(snapshotd, client, "a", bytes(1 << 20))
    made = await client.prepare("c1", [layer], snapshotter)
    first = await client.usage(["c1", "unknown"])
    assert [usage.key for usage in first.usages] == ["c1"]
    assert first.usages[0].used_bytes < 1 << 16
    assert first.mountpoint == f"{snapshotd.data}/snapshotd"
    (snapshotd.seen(made.path) / "written").write_bytes(os.urandom(2 << 20))
    with anyio.fail_after(patience(15)):
        usage = first.usages[0]
        while usage.used_bytes < 2 << 20:
            (usage,) = (await client.usage(["c1"])).usages
    assert usage.used_inodes == first.usages[0].used_inodes + 1
    info: pb.FsInfoResponse = await client.fs_info()
    assert info.layer_bytes >= 1 << 20
    assert info.layer_inodes == (3 if snapshotter == "erofs" else 2)
    assert info.snapshot_bytes >= 2 << 20
    async with anyio.create_task_group() as group:
        (armed / "snapshotd.unpack.laid-out").touch()
        reached = armed / f"snapshotd.unpack.laid-out{failpoint.REACHED}"
        group.start_soon(apply, snapshotd, client, "b", os.urandom(3 << 20))
        await until(reached.exists, "a held layer")
        await until(lambda: told_as_on_disk(snapshotd, client), "what the disk has")
        reached.unlink()
    await until(lambda: told_as_on_disk(snapshotd, client), "what the disk has, with a layer more")
    await client.remove("c1")
    assert (await client.fs_info()).snapshot_bytes == 0
    await client.close()


async def told_as_on_disk(snapshotd: SnapshotdNode, client: SnapshotdClient) -> bool:
    """Whether it is told what the disk says, but for the directories that hold layers and snapshots, and records."""
    info = await client.fs_info()
    for name, told in (("layers", info.layer_bytes), ("snapshots", info.snapshot_bytes)):
        du = subprocess.check_output(["du", "-s", "-B1", snapshotd.data / "snapshotd" / name], text=True)
        if not told <= int(du.split()[0]) <= told + (128 << 10):
            return False
    return True


async def test_hundred_layers_mount(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    layers = [await apply(snapshotd, client, f"n{i}") for i in range(100)]
    made = await client.prepare("c1", layers)
    assert len(list(snapshotd.seen(made.path).iterdir())) == 100
    await client.close()


async def test_mounts_reach_other_namespaces(snapshotd: SnapshotdNode) -> None:
    """A namespace made earlier, as a shim's is, sees later mounts and their end."""
    shim = subprocess.Popen(
        [
            "nsenter",
            f"--mount=/proc/{snapshotd.holder}/ns/mnt",
            "--",
            "unshare",
            "--mount",
            "--propagation",
            "slave",
            "sh",
            "-c",
            "echo; exec cat",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert shim.stdout
    shim.stdout.readline()
    try:
        client = snapshotd.client()
        layer = await apply(snapshotd, client, "a")
        made = await client.prepare("c1", [layer])
        assert (Path(f"/proc/{shim.pid}/root{made.path}") / "a").read_bytes() == b"body"
        await client.remove("c1")
        assert "mounts/c1" not in Path(f"/proc/{shim.pid}/mountinfo").read_text()
        await client.close()
    finally:
        shim.communicate(timeout=10)


async def test_full_disk_is_resource_exhausted_and_leaves_nothing(snapshotd: SnapshotdNode) -> None:
    snapshotd.stop()
    inside = ["nsenter", f"--mount=/proc/{snapshotd.holder}/ns/mnt", "--"]
    subprocess.run([*inside, "mount", "-t", "tmpfs", "-o", "size=8m", "none", snapshotd.data], check=True)
    snapshotd.start()
    client = snapshotd.client()
    diff_id, path = make_blob(snapshotd, "big", os.urandom(16 << 20))
    with pytest.raises(ResourceExhaustedError, match="big"):
        await client.apply_layer(diff_id=diff_id, blob_path=path)
    assert await client.list_layers() == []
    layers = snapshotd.seen(snapshotd.data / "snapshotd/layers")
    assert list(layers.iterdir()) == []
    await apply(snapshotd, client, "small")
    await client.close()


async def test_layers_that_are_not_here_leave_no_locks() -> None:
    def locks() -> int:
        gc.collect()
        return sum(isinstance(each, anyio.Lock) for each in gc.get_objects())

    nobody = await connect("unix:///nowhere")  # nobody asks it
    records = RecordStore(nobody, LayerRecord, node="n", owner="snapshotd", kind="layer")
    rest = dict.fromkeys(("places", "unpacking", "trash", "roots", "task_group"), cast("Any", None))
    layers = Layers(records=records, **rest)
    before = locks()
    assert await layers.remove([f"sha256:{number:064x}" for number in range(50)]) == []
    assert locks() <= before + 1
    await nobody.aclose()
