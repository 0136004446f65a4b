"""What goes, when, and what does not: orphans, snapshots in use, removers that leave, records that cannot be written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
import redis

from common import failpoint
from common.clients.snapshotd import SnapshotdClient
from common.errors import InternalError, NotFoundError
from services.snapshotd.tests.blobs import apply, events
from services.snapshotd.tests.conftest import SnapshotdNode
from tests.support.eventually import eventually
from tests.support.pace import patience

pytestmark = [pytest.mark.root, pytest.mark.integration, pytest.mark.anyio]


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
