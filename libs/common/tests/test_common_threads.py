"""Steps that share the turns of a thread."""

import threading

import anyio
import anyio.lowlevel
import pytest

from common.sys.threads import Together

pytestmark = pytest.mark.anyio


async def test_steps_that_come_during_a_turn_share_the_next_in_their_order() -> None:
    together, entered, go = Together(), threading.Event(), threading.Event()
    ran: list[tuple[int, int]] = []

    def first() -> str:
        entered.set()
        go.wait()
        return "first"

    async def later(number: int) -> None:
        await together.run(lambda: ran.append((number, threading.get_ident())))

    async with anyio.create_task_group() as group:
        group.start_soon(together.run, first)
        await anyio.to_thread.run_sync(entered.wait)
        for number in range(20):
            group.start_soon(later, number)
        await anyio.wait_all_tasks_blocked()
        assert not ran
        go.set()
    assert [number for number, _ in ran] == list(range(20))
    assert len({thread for _, thread in ran}) == 1


async def test_the_steps_of_a_turn_return_at_once_so_that_what_follows_goes_together_too() -> None:
    together = Together()
    returned: list[int] = []
    seen: list[int] = []

    async def one(number: int) -> None:
        await together.run(lambda: None)
        returned.append(number)
        if len(returned) == 1:
            await anyio.lowlevel.checkpoint()  # as long as a trip to Redis waits for others
            seen.append(len(returned))

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one, number)
    assert seen == [20]


async def test_each_caller_has_its_own_result_or_error() -> None:
    together = Together()
    found: dict[int, str] = {}

    def work(number: int) -> str:
        if number % 3 == 0:
            raise OSError(number, "no")
        return f"did {number}"

    async def one(number: int) -> None:
        try:
            found[number] = await together.run(lambda: work(number))
        except OSError as exc:
            found[number] = f"error {exc.errno}"

    async with anyio.create_task_group() as group:
        for number in range(1, 10):
            group.start_soon(one, number)
    assert found == {n: f"did {n}" if n % 3 else f"error {n}" for n in range(1, 10)}


async def test_a_cancelled_caller_waits_for_its_step() -> None:
    together, entered, go = Together(), threading.Event(), threading.Event()
    done: list[str] = []

    def slow() -> None:
        entered.set()
        go.wait()
        done.append("slow")

    async with anyio.create_task_group() as group:
        group.start_soon(together.run, slow)
        await anyio.to_thread.run_sync(entered.wait)
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
            assert not done
            go.set()
    assert done == ["slow"]
