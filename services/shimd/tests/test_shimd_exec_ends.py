"""Execs that end otherwise than by themselves: nothing of them is left, and nobody is kept waiting."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.clients.shim import VERSION, ShimClient
from common.clients.shimframes import Frames, open_frames
from shimd.shim import execgroup
from tests.support.eventually import until

from .conftest import Node, process_json

pytestmark = [pytest.mark.root, pytest.mark.anyio]
SLOW_EXEC = 'case " $* " in *" exec "*) : >"${0%/*}/called"; read go <"${0%/*}/gate";; esac'
"""A runtime whose exec waits for a gate, after it has said that it was called."""


@contextmanager
def slow_exec(node: Node) -> Iterator[tuple[str, Path, Path]]:
    """A runtime whose exec waits for a gate: its path, the file that says that it waits, and the gate."""
    called, gate = node.root / "called", node.root / "gate"
    os.mkfifo(gate)
    keep = os.open(gate, os.O_RDWR)  # whoever opens it goes on
    try:
        yield node.runtime(SLOW_EXEC), called, gate
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
    with slow_exec(node) as (runtime, called, gate):
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
