"""Execs that end otherwise than by themselves: nothing of them is left, and nobody is kept waiting."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from common.clients.shim import VERSION, Result, ShimClient
from common.clients.shimframes import Frames, open_frames
from common.errors import DeadlineExceededError, UnknownError
from shimd.shim import cgroup
from tests.support.eventually import until

from .conftest import Node, process_json, workers, workers_left

pytestmark = [pytest.mark.root, pytest.mark.anyio]
SLOW = 'case " $* " in *" exec "*) : >"$root/called"; read go <"$root/gate";; esac'
"""A runtime whose exec waits for a gate, and runs then."""
STUCK = 'case " $* " in *" exec "*) crun "$@"; : >"$root/called"; read go <"$root/gate"; exit;; esac'
"""A runtime whose exec runs, but ends only by the gate."""
NO_TERMINAL = 'for f in "$@"; do case "$f" in */e*.json) sed -i "s/\\"terminal\\": true/\\"terminal\\": false/" "$f";; esac; done'
"""A runtime whose exec sends no terminal."""
DAEMONS = "(setsid sleep 1001 >/dev/null 2>&1 </dev/null &); sleep 1002 & sleep 1003"


@contextmanager
def gated(node: Node, script: str) -> Iterator[tuple[str, Path, Path]]:
    """The path of a runtime whose exec waits for a gate, the file that says that it waits, and the gate."""
    called, gate = node.root / "called", node.root / "gate"
    os.mkfifo(gate)
    keep = os.open(gate, os.O_RDWR)  # whoever opens it goes on
    try:
        yield node.runtime(script), called, gate
    finally:
        os.close(keep)


async def order(node: Node, container_id: str, **fields: Any) -> Frames:
    """A connection on which an order was sent, whose answer nobody waits for."""
    frames = await open_frames(node.service.socket_path(container_id))
    await frames.send({"v": VERSION, "id": 1, **fields})
    return frames


def running(init: int) -> list[str]:
    """The command lines of a container, without its init's."""
    found = []
    for pid in cgroup.tree_procs(cgroup.container_cgroup(init)) - {init}:
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found.append(line.replace(b"\0", b" ").decode().strip())
    return sorted(filter(None, found))


async def nothing_left(shim: ShimClient, init: int) -> None:
    async def is_over() -> bool:
        return (await shim.state())["execs"] == [] and running(init) == []

    await until(is_over, "the end of the exec and of all that came of it")


async def test_an_exec_whose_client_leaves_before_it_runs_is_ended(node: Node) -> None:
    with gated(node, SLOW) as (runtime, called, gate):
        shim = await node.spawn("a", "sleep", "1000", binary=runtime)
        init = (await shim.start()).pid
        fields = {"process": process_json("sleep", "1001"), "tty": False, "stdin": False}
        client = await order(node, "a", op="exec_stream", exec_id="e", **fields)
        await until(called.exists, "the call of the runtime")
        client.abort()
        for _ in range(2):
            assert (await shim.state())["execs"] == ["e"]
        gate.write_text("\n")
        await nothing_left(shim, init)


@pytest.mark.parametrize("tty", [False, True])
async def test_an_exec_whose_time_is_over_before_its_runtime_ends_is_ended(node: Node, tty: bool) -> None:
    with gated(node, STUCK) as (runtime, called, _gate):
        shim = await node.spawn("a", "sleep", "1000", binary=runtime)
        init = (await shim.start()).pid
        process = process_json("sh", "-c", DAEMONS, tty=tty)
        if tty:
            client = await order(node, "a", op="exec_stream", exec_id="e", process=process, tty=True)
            await until(called.exists, "the call of the runtime")
            client.abort()
        else:
            with pytest.raises(DeadlineExceededError):
                await shim.exec("e", process, timeout_s=0.5)
            assert called.exists()
        await nothing_left(shim, init)
        assert Path(f"/proc/{init}").exists()


async def test_a_runtime_that_ends_soon_after_an_execs_deadline_still_tells_its_process(node: Node) -> None:
    with gated(node, STUCK) as (runtime, called, gate):
        shim = await node.spawn("a", "sleep", "1000", binary=runtime)
        init = (await shim.start()).pid
        results: list[Result] = []

        async def run() -> None:
            results.append(await shim.exec("e", process_json("sh", "-c", DAEMONS), timeout_s=0.5))

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await until(called.exists, "the call of the runtime")
            await anyio.sleep(0.6)
            gate.write_text("\n")
        assert [result.timed_out for result in results] == [True]
        await nothing_left(shim, init)


async def test_who_pours_on_after_the_end_of_an_exec_costs_no_memory(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000")
    await shim.start()
    events = shim.subscribe()
    assert (await anext(events))["event"] == "started"
    process = process_json("sh", "-c", "head -c 4000000000 /dev/zero & exit 3")
    client = await order(node, "a", op="exec_stream", exec_id="e", process=process)
    assert client.transport is not None
    client.transport.pause_reading()
    (found,) = await node.service.list_shims()
    (worker,) = workers(found.pid)
    while (await anext(events))["event"] != "exec_exit":
        pass
    peak_kib = int(Path(f"/proc/{worker}/status").read_text().split("VmHWM:")[1].split()[0])
    assert peak_kib < 64 << 10
    client.abort()
    await events.aclose()


async def test_a_slow_client_gets_all_that_an_exec_wrote_before_its_end(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000")
    await shim.start()
    process = process_json("sh", "-c", "stty raw; head -c 1500000 /dev/zero", tty=True)
    stream = await shim.exec_stream("e", process, tty=True, stdin=False)
    assert stream._protocol.transport is not None
    stream._protocol.transport.pause_reading()
    await anyio.sleep(0.5)
    stream._protocol.transport.resume_reading()
    size = 0
    async for _, data in stream:
        size += len(data)
    assert (size, stream.exit_code) == (1500000, 0)


async def test_an_exec_whose_terminal_does_not_arrive_is_ended(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000", binary=node.runtime(NO_TERMINAL))
    init = (await shim.start()).pid
    (found,) = await node.service.list_shims()
    (worker,) = workers(found.pid)
    with pytest.raises(UnknownError):
        await shim.exec_stream("e", process_json("sh", "-c", DAEMONS, tty=True), tty=True, stdin=False)
    await nothing_left(shim, init)
    assert await workers_left(found.pid) == [worker]  # which has nothing to do any more


@pytest.mark.skipif(
    Path("/sys/fs/cgroup/cgroup.controllers").exists(), reason="cgroup v2 kills what is frozen"
)
async def test_an_exec_that_cannot_be_killed_now_is_looked_for_seldom(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000")
    init = (await shim.start()).pid
    events = shim.subscribe()
    results: list[Result] = []

    async def run() -> None:
        results.append(await shim.exec("e", process_json("sh", "-c", DAEMONS), timeout_s=2))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        while (await anext(events))["event"] != "exec_started":
            pass
        assert (await shim.runtime(["pause", "a"])).exit_code == 0
        (found,) = await node.service.list_shims()
        (worker,) = workers(found.pid)
        await anyio.sleep(2)
        begin = cpu_s(worker)
        await anyio.sleep(3)
        assert cpu_s(worker) - begin < 0.6
        assert (await shim.runtime(["resume", "a"])).exit_code == 0
    assert [result.timed_out for result in results] == [True]
    await nothing_left(shim, init)
    await events.aclose()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
