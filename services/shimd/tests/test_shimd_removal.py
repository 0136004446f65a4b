"""The end of a shim, however its container went: it comes, and takes nothing along that is still wanted."""

import os
import shutil
import socket
from pathlib import Path

import anyio
import msgpack
import pytest

from common.errors import UnknownError
from shimd.service import _furnish
from tests.support.eventually import until
from tests.support.pace import patience

from .conftest import Node, exited

pytestmark = [pytest.mark.root, pytest.mark.anyio]


async def test_a_shim_whose_runtime_cannot_be_executed_is_removed(node: Node) -> None:
    shim = await node.spawn("a", "true", binary="/no/such/runtime")
    with pytest.raises(UnknownError, match="cannot run /no/such/runtime"):
        await shim.start()
    with anyio.fail_after(patience(5)):
        await node.service.remove("a")
    assert await node.service.list_shims() == []


async def test_a_client_that_reads_late_gets_the_last_output_and_the_exit_of_a_container(node: Node) -> None:
    script = "read x; head -c 800000 /dev/zero; exit 3"
    shim = await node.spawn("a", "sh", "-c", script, stdin=True)
    await shim.start()
    late = await shim.attach(stdin=True)
    assert late._protocol.transport is not None
    late._protocol.transport.pause_reading()
    await late.write(b"\n")
    assert (await exited(shim))["exit_code"] == 3
    async with anyio.create_task_group() as group:
        group.start_soon(node.service.remove, "a")
        await until(lambda: not answers(node), "a shim that takes no more orders")
        late._protocol.transport.resume_reading()
        size = 0
        async for _, data in late:
            size += len(data)
    assert (size, late.exit_code) == (800000, 3)
    assert await node.service.list_shims() == []


def answers(node: Node) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(node.service.socket_path("a")) == 0


DELETE_FAILS = 'case " $* " in *" delete "*) [ -e "$root/may" ] || { echo "it is busy" >&2; exit 1; };; esac'
FORK_S = patience(2)
DELETE_WAITS = f'case " $* " in *" delete "*) sleep {FORK_S + 1};; esac'


async def test_a_container_that_could_not_be_deleted_is_not_forgotten(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000", binary=node.runtime(DELETE_FAILS))
    init = (await shim.start()).pid
    with pytest.raises(UnknownError, match="it is busy"):
        await node.service.remove("a", force=True)
    (found,) = await node.service.list_shims()
    assert (found.id, found.alive) == ("a", False)
    (node.root / "may").touch()
    await node.service.remove("a", force=True)
    assert await node.service.list_shims() == []
    await until(lambda: not Path(f"/proc/{init}").exists(), "the end of the container")


async def test_a_delete_may_take_longer_than_a_fork(node: Node) -> None:
    node.zygote._timeout_s = FORK_S
    shim = await node.spawn("a", "sleep", "1000", binary=node.runtime(DELETE_WAITS))
    init = (await shim.start()).pid
    await node.service.remove("a", force=True)
    assert await node.service.list_shims() == []
    await until(lambda: not Path(f"/proc/{init}").exists(), "the end of the container")


async def test_a_spawn_that_comes_late_makes_no_second_shim(node: Node) -> None:
    directory = node.root / "shimd/shims/a"
    spec = msgpack.packb({"container_id": "a"})
    late = _furnish(directory, spec)
    shutil.rmtree(directory)
    with pytest.raises(UnknownError, match="is another shim's by now"):
        await node.zygote.request("spawn", late, directory=str(directory), spec=spec)
    shim = await node.spawn("a", "sleep", "1000")
    (found,) = await node.service.list_shims()
    with pytest.raises(UnknownError, match="is another shim's by now"):
        await node.zygote.request("spawn", late, directory=str(directory), spec=spec)
    assert await node.service.list_shims() == [found]
    assert (await shim.state())["state"] == "created"
    for fd in late:
        os.close(fd)
