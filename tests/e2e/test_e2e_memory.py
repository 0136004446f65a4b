"""The kernel kills services for want of memory while pods run: they come back, and nothing is lost."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from devtools.cri import Cri
from tests.e2e.test_e2e_faults import begin_anew, recovered
from tests.e2e.test_e2e_pods import exited, pod
from tests.support import cgroups, logs
from tests.support.eventually import eventually
from tests.support.node import TestNode
from torture.again import Again

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(300)]
COUNT = "trap 'exit 7' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done"
KILLS = 5
FILES = {
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control", "-1"),
    "": ("memory.max", "memory.current", "memory.events", "max"),
}
"""By where the controller of memory is mounted, for cgroup v1 and v2: limit, use, what tells of kills; and no limit."""


class Narrow:
    """A cgroup for a node's services, with less memory than they want."""

    def __init__(self, node: TestNode) -> None:
        self._node = node
        mounted = "memory" if (cgroups.ROOT / "memory").is_dir() else ""
        limit, used, told, self._no_limit = FILES[mounted]
        self.folder = cgroups.ROOT / mounted / f"{node.bridge}-narrow"
        self._limit, self._used, self._told = (self.folder / name for name in (limit, used, told))

    def take(self, *pids: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # the kernel was quicker
                (self.folder / "cgroup.procs").write_text(str(pid))

    def take_services(self) -> None:
        self.take(*self._node.state["pids"].values())

    def tighten(self) -> None:
        """As far as the kernel allows: v1 refuses less than it can free."""
        for share in (0.7, 0.85, 0.95, 1):
            with contextlib.suppress(OSError):
                self._limit.write_text(str(int(int(self._used.read_text()) * share)))
                return

    def loosen(self) -> None:
        self._limit.write_text(self._no_limit)

    def kills(self) -> int:
        told = dict(line.split() for line in self._told.read_text().splitlines())
        return int(told["oom_kill"])


@pytest.fixture
def narrow(node: TestNode) -> Iterator[Narrow]:
    """With the services in it, whose supervisor is outside."""
    made = Narrow(node)
    made.folder.mkdir()
    home = made.folder.parent / own_cgroup().lstrip("/") / "cgroup.procs"
    supervisor = node.state["supervisor"]
    made.take(supervisor)  # memory belongs to the cgroup in which it was asked for
    for name in node.state["pids"]:
        begin_anew(node, name)
    home.write_text(str(supervisor))
    yield made
    made.loosen()
    for pid in (made.folder / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            home.write_text(pid)
    eventually(lambda: not (made.folder / "cgroup.procs").read_text(), what="an empty cgroup")
    made.folder.rmdir()


def own_cgroup() -> str:
    """Of this process, in the hierarchy that has the controller of memory."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return next(path for _, controllers, path in lines if controllers in ("memory", ""))


async def short_lives(cri: Cri, image: str, again: Again, over: anyio.Event) -> int:
    """Pods that come and go, each with its exit code."""
    number = 0
    while not over.is_set():
        await short_life(cri, image, again, f"short-{number}")
        number += 1
    return number


async def short_life(cri: Cri, image: str, again: Again, name: str) -> None:
    config = cri.sandbox_config(name, host_network=True)
    container = cri.container_config("c", image, ["sh", "-c", "exit 3"])
    sandbox_id = await again("run", lambda: cri.run_sandbox(config))
    container_id = await again("create", lambda: cri.create(sandbox_id, container, config))
    await again("start", lambda: cri.start(container_id))
    assert (await again("wait", lambda: exited(cri, container_id))).exit_code == 3
    await again("remove", lambda: cri.remove_sandbox(sandbox_id))


@pytest.mark.long
async def test_services_that_are_killed_for_memory_come_back_and_lose_nothing(
    node: TestNode, cri: Cri, busybox: str, narrow: Narrow
) -> None:
    again, over = Again(), anyio.Event()
    _, container_id = await again("pod", lambda: pod(cri, "counting", busybox, ["sh", "-c", COUNT]))
    async with anyio.create_task_group() as group:
        group.start_soon(short_lives, cri, busybox, again, over)
        with anyio.move_on_after(120):
            while narrow.kills() < KILLS:
                narrow.tighten()
                await anyio.sleep(0.5)
                narrow.take_services()
        narrow.loosen()
        over.set()
    assert narrow.kills() >= KILLS
    await recovered(cri, container_id)
    await cri.stop(container_id, 10)
    assert (await exited(cri, container_id)).exit_code == 7
    counted = [int(line) for line in logs.lines(node.logs / "counting" / "c.log")]
    assert counted == list(range(len(counted)))
    assert await node.differences() == []
