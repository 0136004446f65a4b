"""Turns among pulls, by themselves and in front of a registry that is slow."""

import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import anyio
import pytest

from imaged.adapters.registry import HttpRegistry
from imaged.adapters.transport import Limits
from imaged.ports import Credentials
from imaged.turns import Queue, Turns
from services.imaged.tests.conftest import BadRegistry, Node, Tools
from tests.support.eventually import until
from tests.support.pace import patience

pytestmark = pytest.mark.anyio
NOBODY = Credentials()


class Run:
    """Transfers that each take one turn, all asked for while none is free."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.served: list[str] = []

    async def one(self, queue: Queue, name: str, order: int = 0) -> None:
        async with queue.turn(order):
            self.served.append(name)
            await anyio.lowlevel.checkpoint()

    async def all(self, *asked: tuple[Queue, str, int]) -> list[str]:
        async with anyio.create_task_group() as group, self.turns.queue().turn():
            for queue, name, order in asked:
                group.start_soon(self.one, queue, name, order)
                await anyio.wait_all_tasks_blocked()
        return self.served


async def test_pulls_of_one_priority_are_served_in_turn() -> None:
    turns = Turns(1)
    big, small, other = turns.queue(), turns.queue(), turns.queue()
    asked = [(big, f"big{n}", 0) for n in range(4)]
    served = await Run(turns).all(*asked, (small, "small", 0), (other, "other1", 0), (other, "other2", 0))
    assert served == ["big0", "small", "other1", "big1", "other2", "big2", "big3"]


async def test_higher_priority_is_first_and_the_rest_is_not_forgotten() -> None:
    turns = Turns(1)
    low, high = turns.queue(-1), turns.queue(5)
    served = await Run(turns).all((low, "low", 0), (high, "high1", 0), (high, "high2", 0))
    assert served == ["high1", "high2", "low"]


async def test_earlier_layers_of_a_pull_come_first() -> None:
    turns = Turns(1)
    queue = turns.queue()
    asked = [(queue, f"layer{order}.{n}", order) for n in range(2) for order in (3, 1, 2)]
    served = await Run(turns).all(*asked)
    assert served == [f"layer{order}.{n}" for order in (1, 2, 3) for n in range(2)]


async def test_as_many_at_once_as_there_are_turns() -> None:
    turns, now, most = Turns(3), 0, 0

    async def work(queue: Queue) -> None:
        nonlocal now, most
        async with queue.turn():
            now += 1
            most = max(most, now)
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            now -= 1

    async with anyio.create_task_group() as group:
        for _ in range(5):
            queue = turns.queue()
            for _ in range(4):
                group.start_soon(work, queue)
    assert (most, now) == (3, 0)


async def test_cancelled_waiters_and_owners_leave_no_turn_behind() -> None:
    turns = Turns(2)
    run = Run(turns)

    async def keep(queue: Queue) -> None:
        async with queue.turn():
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        queues = [turns.queue(priority) for priority in (0, 1, 2)]
        for queue in queues * 3:
            group.start_soon(keep, queue)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    # a turn that was granted in the moment of the cancellation is given back, too
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            async with turns.queue().turn(), turns.queue().turn():
                group.start_soon(keep, queues[0])
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        group.cancel_scope.cancel()
    assert await run.all((queues[0], "a", 0), (queues[1], "b", 0)) == ["a", "b"]
    async with queues[0].turn(), queues[1].turn():
        assert all(not queue.waiting for queue in queues)


@pytest.fixture
def registry(tmp_path: Path) -> HttpRegistry:
    return HttpRegistry(str(tmp_path / "certs.d"), 1, Limits(stall_timeout_s=30))


async def test_a_pull_of_higher_priority_goes_before_one_that_began_earlier(
    node: Node, bad_registry: BadRegistry, tools: Tools
) -> None:
    made = tools.image_of([tools.tar_of({name: name.encode() * 9}) for name in "abcdef"])
    urgent = tools.image_of([tools.tar_of({"urgent": b"u"})])
    begun, go_on = threading.Event(), threading.Event()
    blobs: list[str] = []

    def answer(h: BaseHTTPRequestHandler) -> None:
        image = urgent if "/urgent/" in h.path else made
        name = h.path.rpartition("/")[2]
        if "/manifests/" in h.path:
            kinds = {"Content-Type": image.media_type, "Docker-Content-Digest": image.digest}
            tools.reply(h, 200, image.manifest, kinds)
            return
        blobs.append("urgent" if image is urgent else "plain")
        if len(blobs) == 2:
            begun.set()
            go_on.wait(patience(30))
        tools.reply(h, 200, image.blobs[name])

    bad_registry.answer = answer
    async with anyio.create_task_group() as group:

        async def pull(name: str, priority: int) -> None:
            async for _ in node.images.pull(f"{bad_registry.host}/{name}/app:v1", NOBODY, priority):
                pass

        group.start_soon(pull, "plain", 0)
        await anyio.to_thread.run_sync(begun.wait)
        group.start_soon(pull, "urgent", 0)
        group.start_soon(pull, "urgent", 3)  # joins, and raises it
        operations = node.images._operations
        await until(
            lambda: any(each.queue.waiting for each in operations.values() if each.queue.priority == 3),
            "the urgent pull to wait for its turn",
        )
        go_on.set()
    assert blobs == ["plain", "plain", "urgent", "urgent", *["plain"] * 5]


async def test_cancel_frees_turns_at_once(
    node: Node, registry: HttpRegistry, bad_registry: BadRegistry, tools: Tools
) -> None:
    made = tools.image_of([tools.tar_of({"f": b"f"})])
    waiting = threading.Event()

    def blob(h: BaseHTTPRequestHandler) -> None:
        waiting.set()
        bad_registry.release.wait(30)

    bad_registry.serve(made, blob)
    name = f"{bad_registry.host}/app:v1"
    async with anyio.create_task_group() as group:

        async def pull() -> None:
            with pytest.raises(Exception, match="cancelled by"):
                await node.pull(name)

        group.start_soon(pull)
        await anyio.to_thread.run_sync(waiting.wait)
        with anyio.fail_after(patience(3)):
            (running,) = node.images.operations.all()
            node.images.operations.cancel(running.id)
            async with registry.turns.queue(-1).turn():
                pass
