"""Operations that are joined, listed with their steps, and cancelled."""

import anyio
import pytest

from common.errors import AbortedError, FailedPreconditionError, NotFoundError
from common.observe.trace import span
from common.operations import Key, Operations, cancellable

pytestmark = pytest.mark.anyio
KEY = Key("test", "it")


async def test_callers_with_one_key_share_one_operation() -> None:
    runs = []
    gate = anyio.Event()
    answers = []

    async def work() -> int:
        runs.append(1)
        await gate.wait()
        return 42

    async with anyio.create_task_group() as group:
        operations = Operations(group)

        async def call() -> None:
            answers.append(await operations.join(KEY, work))

        for _ in range(3):
            group.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert (runs, answers) == ([1], [42, 42, 42])


async def test_a_caller_that_leaves_does_not_end_the_operation() -> None:
    gate, done = anyio.Event(), anyio.Event()

    async def work() -> None:
        await gate.wait()
        done.set()

    async with anyio.create_task_group() as group:
        operations = Operations(group)
        with anyio.move_on_after(0):
            await operations.join(KEY, work)
        gate.set()
        await operations.wait(KEY)
    assert done.is_set()


async def test_a_bug_is_told_though_its_caller_has_left(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        raise KeyError("sandbox_id")

    async with anyio.create_task_group() as group:
        operations = Operations(group)
        with anyio.move_on_after(0):
            await operations.join(KEY, work)
        await operations.wait(KEY)
    (told,) = [record for record in caplog.records if record.getMessage() == "operation.bug"]
    assert told.exc_info
    assert told.exc_info[0] is KeyError


async def test_a_failure_reaches_every_caller_and_not_the_service() -> None:
    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        raise NotFoundError("gone")

    async with anyio.create_task_group() as group:
        operations = Operations(group)
        for _ in range(2):
            with pytest.raises(NotFoundError, match="gone"):
                await operations.join(KEY, work)


async def test_an_operation_tells_its_step_and_is_cancelled_where_it_can_be() -> None:
    holding, free = anyio.Event(), anyio.Event()
    undone = []

    async def work() -> None:
        with span("test.prepare"):
            holding.set()
            await free.wait()
        try:
            with span("test.fetch"), cancellable():
                await anyio.sleep_forever()
        except AbortedError:
            undone.append("fetch")
            raise

    async with anyio.create_task_group() as group:
        operations = Operations(group)

        async def call() -> None:
            with pytest.raises(AbortedError, match="pull an app: cancelled by nobody"):
                await operations.join(Key("pull", "an app"), work)

        group.start_soon(call)
        await holding.wait()
        found = operations.all()[0]
        assert (found.kind, found.object, found.steps) == ("pull", "an app", ["test.prepare"])
        with pytest.raises(FailedPreconditionError, match=r"cannot be cut short at test\.prepare"):
            operations.cancel(found.id)
        free.set()
        await anyio.wait_all_tasks_blocked()
        assert found.steps == ["test.fetch"]
        assert operations.cancel(found.id[:4]) is found
    assert undone == ["fetch"]
    assert operations.all() == []
    with pytest.raises(NotFoundError):
        operations.cancel(found.id)
