"""Long operations by name: the first caller starts one, later callers join it and get the same answer.

An operation runs in the service's own task group, so neither the deadline nor the disappearance of a caller
ends it.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from common.errors import UnavailableError
from runtimed import meters

T = TypeVar("T")


@dataclass
class _Operation:
    done: anyio.Event = field(default_factory=anyio.Event)
    answer: Any = None
    error: BaseException | None = None


class Operations:
    """The running operations of a service."""

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._running: dict[str, _Operation] = {}

    def running(self, key: str) -> bool:
        return key in self._running

    async def join(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work` unless an operation with this key runs already, and wait for its answer."""
        operation = self._running.get(key)
        if operation is None:
            operation = self._running[key] = _Operation()
            self._group.start_soon(self._run, key, operation, work, name=f"operation {key}")
        await operation.done.wait()
        if operation.error is not None:
            raise operation.error
        answer: T = operation.answer
        return answer

    async def wait(self, key: str) -> None:
        """Wait until no operation with this key runs, whatever its outcome."""
        while operation := self._running.get(key):
            await operation.done.wait()

    async def _run(self, key: str, operation: _Operation, work: Callable[[], Awaitable[Any]]) -> None:
        operation.error = UnavailableError(f"{key}: the service is stopping")
        kind, start = _kind(key), time.monotonic()
        try:
            with meters.OPERATIONS.labels(kind).track_inprogress():
                operation.answer = await work()
            operation.error = None
        except Exception as exc:  # noqa: BLE001 - the border: the callers get it, the service goes on
            operation.error = exc
        finally:
            del self._running[key]
            result = "failed" if operation.error else "ok"
            meters.OPERATION_SECONDS.labels(kind, result).observe(time.monotonic() - start)
            operation.done.set()


def _kind(key: str) -> str:
    """The key without the name of its object, which comes last and may have blanks."""
    verb, _, rest = key.partition(" ")
    return f"{verb} sandbox" if rest.startswith("sandbox ") else verb
