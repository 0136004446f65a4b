"""`./dev torture --upgrade REVISION`: an older Slipway has pods that stay and pods that come and go; this one takes over.

First the whole node is stopped and started anew by this code, under the shims of the older one; then each service of this
code is restarted as a service manager does it. No call may fail but with `ask again`.
"""

import random
import signal
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri, connect_impatiently
from devtools.older import programs_of
from devtools.registry import push_busybox, registry
from node.layout import SERVICES
from tests.support import logs
from tests.support.node import PROGRAMS, TestNode, running_node
from torture import history, left
from torture.again import Again
from torture.book import Book
from torture.churn import Ground, Worker
from torture.kills import Fault, Killer, recovered
from torture.page import Section, Table

WORKERS = 4
CODE = 7
TICKS = "n=0; while true; do n=$((n+1)); echo $n; sleep 0.05; done"


@dataclass
class Upgraded:
    """What came of it."""

    counts: dict[str, int] = field(default_factory=dict)
    asked_again: int = 0
    faults: list[Fault] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def section(self, revision: str) -> Section:
        return Section(
            ran=f"From {revision}, with pods that stay and pods that come and go; {self.asked_again} calls were to be asked again.",
            faults=len(self.faults),
            survived=sum(map(recovered, self.faults)),
            worst_s=max((fault.recovered_s for fault in self.faults), default=0.0),
            lost=self.problems,
            tables=[
                Table(["Checked", "number"], [[what, str(n)] for what, n in sorted(self.counts.items())])
            ],
        )


async def upgrade(older: Path, seconds: float, seed: int) -> Upgraded:
    """Churn for so long under the older one, again under this one, and while each service is restarted."""
    dice, book, again = random.Random(seed), Book(), Again()
    with tempfile.TemporaryDirectory(prefix="slipway-upgrade-") as name:
        base = Path(name)
        with registry(base / "registry") as shop, running_node(base / "n", programs=older) as node:
            image = push_busybox(shop)
            async with connect_impatiently(node.socket, node.logs) as cri:
                await cri.pull(image)
                standing = [await _stand(cri, image, number) for number in range(2)]
                ended = await _stand(cri, image, len(standing), f"exit {CODE}")
                before = [await cri.status(container_id) for container_id in standing]
                ground, over = Ground(cri, again, book, image, node.logs), anyio.Event()
                async with anyio.create_task_group() as group:
                    for number in range(WORKERS):
                        worker = Worker(ground, number, random.Random(dice.random()))
                        group.start_soon(worker.run, over)
                    await anyio.sleep(seconds)
                    killer = Killer(node, cri, book, dice)
                    killer.faults.append(await _take_over(node))
                    await anyio.sleep(seconds)
                    for service in SERVICES:
                        await killer.kill(service, signal.SIGTERM)
                    over.set()
                for number, (container_id, was) in enumerate(zip(standing, before, strict=True)):
                    await _stands(cri, book, node, number, container_id, was)
                code = (await cri.status(ended)).exit_code
                if code != CODE:
                    book.lost(
                        f"exit code {code} of a container that had ended under the older one, not {CODE}"
                    )
                await left.check(node, cri, book)
                await left.relayed(node, book)
                await history.check(node, book)
    return Upgraded(book.counts, sum(again.refused.values()), killer.faults, book.problems)


async def _take_over(node: TestNode) -> Fault:
    began = anyio.current_time()
    await anyio.to_thread.run_sync(node.down)
    node.programs = PROGRAMS
    await anyio.to_thread.run_sync(node.up)
    return Fault("the whole node", anyio.current_time() - began)


async def _stand(cri: Cri, image: str, number: int, script: str = TICKS) -> str:
    """A container that is there before the upgrade, with a network of its own every other time."""
    sandbox = cri.sandbox_config(f"stands-{number}", host_network=number % 2 == 0)
    sandbox_id = await cri.run_sandbox(sandbox)
    container_id = await cri.create(
        sandbox_id, cri.container_config("c", image, ["sh", "-c", script]), sandbox
    )
    await cri.start(container_id)
    return container_id


async def _stands(
    cri: Cri, book: Book, node: TestNode, number: int, container_id: str, was: cri_pb.ContainerStatus
) -> None:
    name = f"stands-{number}"
    now = await cri.status(container_id)
    if (now.state, now.started_at) != (cri_pb.CONTAINER_RUNNING, was.started_at):
        book.lost(f"{name}: {now.state} since {now.started_at}, not running since {was.started_at}")
    answer = await cri.exec(container_id, ["echo", "said"])
    if answer.stdout != b"said\n":
        book.lost(f"{name}: exec: {answer.exit_code} {answer.stdout!r}")
    found = [int(line) for line in logs.lines(node.logs / name / "c.log")]
    if found != list(range(1, len(found) + 1)):
        book.lost(f"{name}: lines of its log are missing among {len(found)}")
    book.count("log lines of those that stood", len(found))


def run(revision: str, seconds: float, seed: int) -> Section:
    """Install the older one and upgrade from it.

    Raises:
        InvalidArgumentError: git does not know the revision.
        FailedPreconditionError: its packages cannot be had.
    """
    with programs_of(revision) as older:
        return anyio.run(partial(upgrade, older, seconds, seed)).section(revision)
