"""A whole snapshotd over its socket: keys, uses, orphans, restarts, repairs, a full disk."""

import gc
import hashlib
import io
import os
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
import redis

from common import failpoint
from common.api.snapshots.v1 import snapshots_pb2 as pb
from common.clients.snapshotd import SnapshotdClient
from common.errors import (
    AlreadyExistsError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from common.events.schema import envelope_decoder
from common.records import RecordStore
from common.records.redis import connect
from common.sys.userns import IdMapping, IdMappings
from services.snapshotd.tests.conftest import SnapshotdNode
from services.snapshotd.tests.test_snapshotd_layers import HAS_EROFS, SNAPSHOTTERS, E, tar
from services.snapshotd.tests.test_snapshotd_layers import apply as apply_layer
from snapshotd.adapters.overlay import MAX_REPAIRS
from snapshotd.layers import Layers
from snapshotd.records import LayerRecord
from tests.support.eventually import eventually, until
from tests.support.pace import patience

pytestmark = [pytest.mark.root, pytest.mark.integration, pytest.mark.anyio]


def make_blob(node: SnapshotdNode, name: str, body: bytes = b"body") -> tuple[str, str]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(body)
        archive.addfile(info, io.BytesIO(body))
    content = out.getvalue()
    path = node.directory / f"blob-{name}"
    path.write_bytes(content)
    return f"sha256:{hashlib.sha256(content).hexdigest()}", str(path)


async def apply(node: SnapshotdNode, client: SnapshotdClient, name: str, body: bytes = b"body") -> str:
    diff_id, path = make_blob(node, name, body)
    await client.apply_layer(diff_id=diff_id, blob_path=path)
    return diff_id


def events(node: SnapshotdNode) -> list[tuple[str, str]]:
    with redis.Redis(unix_socket_path=node.redis.url.removeprefix("unix://")) as connection:
        entries: Any = connection.xrange("slipway:n1:snapshotd:outbox")
    found = [envelope_decoder.decode(fields[b"envelope"]).fields() for _, fields in entries]
    return [(event["type"].split(".", 1)[1].removesuffix(".v1"), event["id"]) for event in found]


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


async def test_layers_in_use_go_with_their_last_snapshot(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    a, b = await apply(snapshotd, client, "a"), await apply(snapshotd, client, "b")
    await client.prepare("c1", [a])
    await client.prepare("c2", [a], "native")
    assert await client.remove_layers([a, b, "sha256:" + "7" * 64]) == [a]
    assert await client.remove_layers([a, b]) == [a]
    await client.remove("c1")
    assert [layer.diff_id for layer in await client.list_layers()] == [a]
    await client.remove("c2")
    await client.remove("c2")
    assert await client.list_layers() == []
    assert snapshotd.mounts() == []
    assert [e[0] for e in events(snapshotd)] == [
        "layer_unpacked",
        "layer_unpacked",
        "prepared",
        "prepared",
        "layer_removed",
        "removed",
        "removed",
        "layer_removed",
    ]
    eventually(lambda: not list((snapshotd.data / "snapshotd/trash").iterdir()), what="an empty trash")
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


async def test_what_a_runtime_made_in_the_place_of_its_root_goes_with_it(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    made = await client.prepare("c1", [await apply(snapshotd, client, "a")])
    # an OCI runtime whose shim was killed, after the snapshot was unmounted
    assert snapshotd.within("umount", made.path).returncode == 0
    (snapshotd.seen(made.path) / "proc").mkdir()
    (snapshotd.seen(made.path) / "etc").mkdir()
    (snapshotd.seen(made.path) / "etc/hosts").touch()
    await client.remove("c1")
    assert (await client.list(), list(snapshotd.seen(Path(made.path).parent).iterdir())) == ([], [])
    await client.close()


async def test_a_removal_goes_on_where_a_directory_cannot_be_thrown_away(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    layers = [await apply(snapshotd, client, name) for name in ("a", "b")]
    await client.prepare("c1", layers)
    assert set(await client.remove_layers(layers)) == set(layers)
    trash = snapshotd.data / "snapshotd/trash"
    trash.rename(trash.with_name("trash-before"))
    trash.touch()
    with pytest.raises(InternalError, match="Not a directory"):
        await client.remove("c1")
    assert (await client.list(), await client.list_layers()) == ([], [])
    await client.close()


@contextmanager
def redis_takes_no_write(node: SnapshotdNode) -> Iterator[Callable[[], bool]]:
    """While the block runs, which gets a way to wait until a change of a record waits."""
    with redis.Redis(unix_socket_path=node.redis.url.removeprefix("unix://")) as connection:

        def one_waits() -> bool:
            return any(each["cmd"] == "evalsha" and "b" in each["flags"] for each in connection.client_list())

        connection.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
        try:
            yield lambda: eventually(one_waits, what="a change of a record")
        finally:
            connection.execute_command("CLIENT", "UNPAUSE")


async def test_a_layer_on_its_way_out_takes_no_snapshot_and_comes_back_whole(
    snapshotd: SnapshotdNode,
) -> None:
    client = snapshotd.client(patience(5))
    layer = await apply(snapshotd, client, "a")
    async with anyio.create_task_group() as group:
        with redis_takes_no_write(snapshotd) as wait_for_one:
            group.start_soon(client.remove_layers, [layer])
            await anyio.to_thread.run_sync(wait_for_one)
            with pytest.raises(NotFoundError, match=layer):
                await client.prepare("c1", [layer])
            group.start_soon(apply, snapshotd, client, "a")
    made = await client.prepare("c1", [layer])
    assert (snapshotd.seen(made.path) / "a").read_bytes() == b"body"
    await client.close()


async def test_an_orphan_that_goes_with_its_last_snapshot_takes_no_other(snapshotd: SnapshotdNode) -> None:
    armed = snapshotd.run / failpoint.DIRECTORY
    armed.mkdir()
    snapshotd.kill()
    snapshotd.start()
    client = snapshotd.client(patience(5))
    layer = await apply(snapshotd, client, "a")
    await client.prepare("c1", [layer])
    assert await client.remove_layers([layer]) == [layer]
    point = "snapshotd.remove.forgotten"
    reached = armed / f"{point}{failpoint.REACHED}"
    (armed / point).touch()
    async with anyio.create_task_group() as group:
        group.start_soon(client.remove, "c1")
        await anyio.to_thread.run_sync(lambda: eventually(reached.exists, what=point))
        with redis_takes_no_write(snapshotd) as wait_for_one:
            reached.unlink()
            await anyio.to_thread.run_sync(wait_for_one)
            with pytest.raises(NotFoundError, match=layer):
                await client.prepare("c2", [layer])
    assert await client.list_layers() == []
    await client.close()


async def remove_and_leave(snapshotd: SnapshotdNode, point: str) -> tuple[SnapshotdClient, str]:
    """A snapshot `c1` whose remover has left at a failpoint of the removal; a client, and its layer."""
    armed = snapshotd.run / failpoint.DIRECTORY
    armed.mkdir()
    snapshotd.kill()
    snapshotd.start()
    client = snapshotd.client()
    layer = await apply(snapshotd, client, "a")
    await client.prepare("c1", [layer])
    name = f"snapshotd.remove.{point}"
    reached = armed / f"{name}{failpoint.REACHED}"
    (armed / name).touch()
    async with anyio.create_task_group() as group:
        group.start_soon(client.remove, "c1")
        await anyio.to_thread.run_sync(lambda: eventually(reached.exists, what=name))
        group.cancel_scope.cancel()
    await client.list()  # what comes later on a connection tells that the news of it has come
    reached.unlink()
    return client, layer


@pytest.mark.parametrize("point", ["unmounted", "forgotten"])
async def test_a_removal_whose_caller_has_left_is_done_whole_or_is_found_by_the_next(
    snapshotd: SnapshotdNode, point: str
) -> None:
    client, layer = await remove_and_leave(snapshotd, point)
    await client.remove("c1")
    assert await client.list() == []
    assert list(await client.remove_layers([layer])) == []
    assert await client.list_layers([layer]) == []
    await client.close()


async def test_a_snapshot_whose_removal_had_begun_is_mounted_when_it_is_asked_for_again(
    snapshotd: SnapshotdNode,
) -> None:
    client, layer = await remove_and_leave(snapshotd, "unmounted")
    assert snapshotd.mounts() == []
    made = await client.prepare("c1", [layer])
    assert (snapshotd.seen(made.path) / "a").read_bytes() == b"body"
    await client.remove("c1")
    await client.close()


async def test_layer_asked_for_again_is_an_orphan_no_more(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    a = await apply(snapshotd, client, "a")
    await client.prepare("c1", [a])
    assert await client.remove_layers([a]) == [a]
    await apply(snapshotd, client, "a")
    await client.remove("c1")
    assert [layer.diff_id for layer in await client.list_layers()] == [a]
    await client.close()


async def test_snapshot_in_use_is_removed_all_the_same(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    layer = await apply(snapshotd, client, "a")
    made = await client.prepare("c1", [layer])
    held = (snapshotd.seen(made.path) / "a").open("rb")
    await client.remove("c1")
    assert snapshotd.mounts() == []
    assert held.read() == b"body"
    held.close()
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


async def test_mounts_and_writes_survive_kill_and_restart(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    layer = await apply(snapshotd, client, "a")
    made = {name: await client.prepare(name, [layer], name) for name in ("overlayfs", "native")}
    for one in made.values():
        (snapshotd.seen(one.path) / "written").write_text("kept")
    snapshotd.kill()
    assert snapshotd.mounts() == ["native", "overlayfs"]
    snapshotd.start()
    assert {s.key: s for s in await client.list()} == made
    assert snapshotd.mounts() == ["native", "overlayfs"]
    for one in made.values():
        assert (snapshotd.seen(one.path) / "written").read_text() == "kept"
    assert "repaired" not in dict(events(snapshotd))
    await client.close()


async def test_start_mends_what_differs(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    layer = await apply(snapshotd, client, "a")
    one = await client.prepare("lost-mount", [layer])
    (snapshotd.seen(one.path) / "written").write_text("kept")
    await client.prepare("lost-dir", [layer])
    await client.prepare("kept", [layer], "native", readonly=True)
    snapshotd.kill()
    data, mounts = snapshotd.data / "snapshotd", snapshotd.run / "snapshotd/mounts"
    inside = ["nsenter", f"--mount=/proc/{snapshotd.holder}/ns/mnt", "--"]
    for name in ("lost-mount", "lost-dir"):
        subprocess.run([*inside, "umount", mounts / name], check=True)
    subprocess.run(["rm", "-rf", data / "snapshots/lost-dir"], check=True)
    (data / "layers/.new-half/fs").mkdir(parents=True)
    (data / "snapshots/stray/upper").mkdir(parents=True)
    snapshotd.seen(mounts / "stray-mount").mkdir()
    subprocess.run([*inside, "mount", "-t", "tmpfs", "none", mounts / "stray-mount"], check=True)
    snapshotd.start()
    assert sorted(s.key for s in await client.list()) == ["kept", "lost-mount"]
    assert snapshotd.mounts() == ["kept", "lost-mount"]
    assert (snapshotd.seen(one.path) / "written").read_text() == "kept"
    assert snapshotd.leftovers() == []
    assert not (data / "snapshots/stray").exists()
    mended = {key for verb, key in events(snapshotd) if verb == "repaired"}
    assert mended == {"lost-mount", "lost-dir", ".new-half", "stray", "stray-mount"}
    # lost-dir held the layer: with the record gone, nothing holds it but the others
    await client.remove("lost-mount")
    await client.remove("kept")
    assert await client.remove_layers([layer]) == []
    await client.close()


async def test_wiped_redis_is_rebuilt_from_disk(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    layer = await apply(snapshotd, client, "a")
    made = await client.prepare("c1", [layer])
    snapshotd.kill()
    with redis.Redis(unix_socket_path=snapshotd.redis.url.removeprefix("unix://")) as connection:
        connection.flushall()
    snapshotd.start()
    assert await client.get("c1") == made
    assert [found.diff_id for found in await client.list_layers()] == [layer]
    assert snapshotd.mounts() == ["c1"]
    await client.close()


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


def nurseries(node: SnapshotdNode) -> list[int]:
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"diff.nursery" in _command(pid)]


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""  # it went meanwhile


async def test_layers_are_unpacked_after_the_nursery_has_died(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    await apply(snapshotd, client, "a")
    (first,) = nurseries(snapshotd)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: nurseries(snapshotd) not in ([], [first]), what="another nursery")
    await apply(snapshotd, client, "b")
    (second,) = nurseries(snapshotd)
    snapshotd.kill()
    eventually(lambda: not Path(f"/proc/{second}").exists(), what="the end of the nursery")
    await client.close()


async def test_term_ends_the_service_and_leaves_mounts(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    await client.prepare("c1", [])
    assert snapshotd.stop() == 0
    assert snapshotd.mounts() == ["c1"]
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
