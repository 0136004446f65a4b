"""Execs that end otherwise than by themselves: nothing of them is left, and nobody is kept waiting."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from common.clients.shim import VERSION, ExecResult, ShimClient
from common.clients.shimframes import Frames, open_frames
from common.errors import DeadlineExceededError
from shimd.shim import execgroup
from tests.support.eventually import until

from .conftest import Node, process_json

pytestmark = [pytest.mark.root, pytest.mark.anyio]
SLOW = 'case " $* " in *" exec "*) : >"${0%/*}/called"; read go <"${0%/*}/gate";; esac'
"""A runtime whose exec waits for a gate, and runs then."""
STUCK = 'case " $* " in *" exec "*) crun "$@"; : >"${0%/*}/called"; read go <"${0%/*}/gate"; exit;; esac'
"""A runtime whose exec runs, but ends only by the gate."""
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
    for pid in execgroup.tree_procs(execgroup.container_cgroup(init)) - {init}:
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
        results: list[ExecResult] = []

        async def run() -> None:
            results.append(await shim.exec("e", process_json("sh", "-c", DAEMONS), timeout_s=0.5))

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await until(called.exists, "the call of the runtime")
            await anyio.sleep(0.6)
            gate.write_text("\n")
        assert [result.timed_out for result in results] == [True]
        await nothing_left(shim, init)
