"""Steps that are done at once."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from common.observe.log import get_logger

_log = get_logger("runtimed")


async def together(*works: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Run steps at once and wait for all, also when one fails; the first failure is raised as it is."""
    answers: list[Any] = [None] * len(works)
    failures: list[Exception] = []

    async def one(index: int, work: Callable[[], Awaitable[Any]]) -> None:
        try:
            answers[index] = await work()
        except Exception as exc:  # noqa: BLE001 - raised below, once the others have come to rest
            failures.append(exc)

    async with anyio.create_task_group() as group:
        for index, work in enumerate(works):
            group.start_soon(one, index, work)
    if failures:
        for other in failures[1:]:
            _log.warning("step.failed_too", error=str(other))
        raise failures[0]
    return answers
