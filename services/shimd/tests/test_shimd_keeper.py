"""A shim that had nothing to do: what its last worker left is taken up by the next."""

import os
import signal
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from tests.support import logs
from tests.support.eventually import eventually
from tests.support.pace import patience

from .conftest import Node, exited, gone, process_json, workers, workers_left

pytestmark = [pytest.mark.root, pytest.mark.anyio]


async def pid_of(node: Node) -> int:
    (found,) = await node.service.list_shims()
    return found.pid


async def test_output_input_and_exit_go_on_after_a_rest(node: Node) -> None:
    script = "printf 'one '; read word; echo $word; read word; echo $word; exit 7"
    shim = await node.spawn("c1", "sh", "-c", script, stdin=True)
    events = shim.subscribe()
    await shim.start()
    assert (await anext(events))["event"] == "started"
    keeper = await pid_of(node)
    for word in (b"two", b"three"):
        assert await workers_left(keeper)
        stream = await shim.attach(stdin=True)
        await stream.write(word + b"\n")
        with anyio.fail_after(patience(10)):
            async for _stream, data in stream:
                if word in data:
                    break
        await stream.close()
    with anyio.fail_after(patience(10)):
        exit_event = await anext(events)
    assert (exit_event["event"], exit_event["exit_code"]) == ("exit", 7)
    assert exit_event["log_bytes"] == node.log("c1").stat().st_size
    assert logs.untimed(node.log("c1")) == ["stdout F one two", "stdout F three"]
    await events.aclose()
    await shim.close()


async def test_an_end_without_a_worker_is_recorded(node: Node) -> None:
    shim = await node.spawn("c1", "sleep", "1000")
    started = await shim.start()
    keeper = await pid_of(node)
    await workers_left(keeper)
    os.kill(started.pid, signal.SIGKILL)
    record = await exited(shim)
    assert (record["exit_code"], record["signal"]) == (137, 9)
    await workers_left(keeper)
    state = await shim.state()
    assert (state["state"], state["exit"]["exit_code"]) == ("exited", 137)
    await shim.close()


async def test_execs_and_terminals_go_on_after_a_rest(node: Node) -> None:
    shim = await node.spawn("c1", "sh", tty=True, stdin=True)
    await shim.start()
    keeper = await pid_of(node)
    for number in range(2):
        await workers_left(keeper)
        result = await shim.exec(f"e{number}", process_json("sh", "-c", "echo hello; exit 3"))
        assert (result.exit_code, result.stdout) == (3, b"hello\n")
    await workers_left(keeper)
    await shim.resize(100, 40)
    stream = await shim.attach(stdin=True)
    await stream.write(b"stty size; exit 5\n")
    assert (await exited(shim))["exit_code"] == 5
    assert b"40 100" in node.log("c1").read_bytes()
    await stream.close()
    await shim.close()


async def test_a_client_that_goes_wakes_nobody_and_the_next_is_served(node: Node) -> None:
    shim = await node.spawn("c1", "sleep", "1000")
    events = shim.subscribe()
    started = await shim.start()
    await anext(events)
    keeper = await pid_of(node)
    await workers_left(keeper)
    sleeps = _sleeps(keeper)
    await shim.close()  # as when runtimed dies
    await anyio.to_thread.run_sync(eventually, lambda: _sleeps(keeper) > sleeps)
    assert workers(keeper) == []
    other = await node.client("c1")
    assert (await other.state())["pid"] == started.pid
    await workers_left(keeper)
    os.kill(started.pid, signal.SIGKILL)
    assert (await exited(other))["exit_code"] == 137
    await other.close()


def _sleeps(pid: int) -> int:
    """How often a process has gone to sleep by itself."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


async def test_a_shim_ends_as_one(node: Node) -> None:
    shim = await node.spawn("c1", "sleep", "1000")
    await shim.start()
    keeper = await pid_of(node)
    (worker,) = workers(keeper)
    os.kill(worker, signal.SIGKILL)
    with anyio.fail_after(patience(10)):
        await gone(keeper)
    await shim.close()
    other = await node.spawn("c2", "sleep", "1000")
    await other.start()
    (keeper,) = (found.pid for found in await node.service.list_shims() if found.id == "c2")
    (worker,) = workers(keeper)
    os.kill(keeper, signal.SIGKILL)
    with anyio.fail_after(patience(10)):
        await gone(worker)
    await other.close()
