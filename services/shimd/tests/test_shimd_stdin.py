"""Input that comes faster than the process reads it: who sent it is held back, and none of it is lost."""

import os
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from common.clients.shim import ShimClient
from common.clients.shimstream import ShimStream
from tests.support import logs
from tests.support.eventually import eventually
from tests.support.pace import patience

from .conftest import Node, exited, workers

pytestmark = [pytest.mark.root, pytest.mark.anyio]


async def waiting(node: Node, script: str, *, stdin_once: bool = False) -> tuple[ShimClient, Path]:
    """A container that runs its script when its gate is opened for writing."""
    shim = await node.spawn(
        "a", "sh", "-c", f"read x </tmp/gate; {script}", stdin=True, stdin_once=stdin_once
    )
    gate = node.root / "bundles/a/rootfs/tmp/gate"
    os.mkfifo(gate)
    await shim.start()
    return shim, gate


async def leave(stream: ShimStream) -> None:
    """Close, and wait until all that was written is with the shim."""
    await stream.close()
    with anyio.fail_after(patience(20)):
        assert await stream.read() is None


def said(node: Node) -> list[str]:
    return [record.text.decode() for record in logs.records(node.log("a")) if record.stream == b"stdout"]


def sockets(pid: int) -> int:
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            found += os.readlink(descriptor).startswith("socket:")
    return found


async def test_two_who_write_more_than_is_read_are_both_let_on(node: Node) -> None:
    size = 3 << 20
    shim, gate = await waiting(node, f"head -c {2 * size} | wc -c")
    async with anyio.create_task_group() as group:
        for _ in range(2):
            stream = await shim.attach(stdin=True)
            group.start_soon(stream.write, bytes(size))
            held = stream._protocol._room
            while held.is_set():
                await anyio.lowlevel.checkpoint()
        await anyio.to_thread.run_sync(gate.write_text, "\n")
        assert (await exited(shim))["exit_code"] == 0
    assert said(node) == [str(2 * size)]


@pytest.mark.parametrize("once", [False, True])
async def test_input_of_a_client_that_has_left_is_read_later(node: Node, once: bool) -> None:
    size = 384 << 10
    # What it writes itself finds nobody any more, and must take nothing of its input along.
    script = f"echo away; head -c {size} | tee /dev/stderr | wc -c{'; cat' if once else ''}"
    shim, gate = await waiting(node, script, stdin_once=once)
    stream = await shim.attach(stdin=True)
    await stream.write(bytes(size))
    await leave(stream)
    await anyio.to_thread.run_sync(gate.write_text, "\n")
    assert (await exited(shim))["exit_code"] == 0
    assert said(node) == ["away", str(size)]


async def test_clients_that_leave_unread_input_take_no_place_for_ever(node: Node) -> None:
    shim, _gate = await waiting(node, "cat")
    (found,) = await node.service.list_shims()
    (worker,) = workers(found.pid)
    before = sockets(worker)
    for number in range(20):
        stream = await shim.attach(stdin=True)
        await stream.write(bytes(384 << 10 if number == 0 else 64 << 10))
        await leave(stream)
    eventually(lambda: sockets(worker) <= before + 8, what="no more than eight of them")
    assert sockets(worker) == before + 8
    assert (await shim.state())["state"] == "running"
