"""Blocking work that must not share a thread, and such that had better."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")


async def in_own_thread(work: Callable[[], T], name: str) -> T:
    """Run blocking work in a new thread, which ends with it; a cancelled caller leaves it running to its end.

    A namespace is left by one thread only: a thread of a pool would carry what it entered into the next work.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type] # T when there is no error
        else:
            future.set_exception(error)

    def body() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - carried to the caller
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, result, None)

    threading.Thread(target=body, name=name, daemon=True).start()
    return await future


class Together:
    """Small steps on a disk: those that come while a thread is at work go together in its next turn, in their order.

    A turn of a thread takes longer than a rename, and sixty layers are thrown away at once. All steps of a turn return at once,
    too: what their callers do next may go together again.
    """

    def __init__(self) -> None:
        self._waiting: list[_Step[Any]] = []
        self._turn = anyio.Lock()

    async def run(self, work: Callable[[], T]) -> T:
        """Run it; a cancelled caller waits for its end, as with `anyio.to_thread.run_sync`."""
        step = _Step(work)
        self._waiting.append(step)
        with anyio.CancelScope(shield=True):  # others wait for it
            if len(self._waiting) == 1:
                await self._take_turn()
            else:
                await step.ended.wait()
        return step.result()

    async def _take_turn(self) -> None:
        steps: Sequence[_Step[Any]] = ()
        try:
            async with self._turn:
                steps, self._waiting = self._waiting, []
                await anyio.to_thread.run_sync(_run, steps)
        finally:
            for step in steps:
                step.ended.set()


class _Step(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._result: T
        self._error: BaseException | None = RuntimeError("no thread ran it")
        self.ended = anyio.Event()

    def run(self) -> None:
        try:
            self._result = self._work()
            self._error = None
        except BaseException as error:  # noqa: BLE001 - carried to the caller
            self._error = error

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result


def _run(steps: Sequence[_Step[Any]]) -> None:
    for step in steps:
        step.run()
