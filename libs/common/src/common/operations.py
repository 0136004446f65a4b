"""Long operations by key: the first caller starts one, later callers join it and get the same answer.

An operation runs in the service's own task group, so neither the deadline nor the disappearance of a caller
ends it. What goes on can be listed, with the step that it is at, and cancelled where its work allows it.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from common.clock import now_ns
from common.errors import (
    AbortedError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    SlipwayError,
    UnavailableError,
)
from common.observe import metrics, trace
from common.observe.log import get_logger
from common.rpc import caller

T = TypeVar("T")
_log = get_logger("operations")
_SECONDS = metrics.histogram(
    "operation_duration_seconds",
    "How long operations took, also those whose caller had left; result is ok or failed.",
    ["service", "operation", "result"],
)
_RUNNING = metrics.gauge("operations_running", "Operations that go on now.", ["service", "operation"])


@dataclass(frozen=True)
class Key:
    """What is done, and to what. Both are for people, too, and may have blanks."""

    kind: str
    object: str

    def __str__(self) -> str:
        return f"{self.kind} {self.object}"


def _uncounted() -> tuple[int, int]:
    return 0, 0


@dataclass(eq=False)
class Operation:
    """One that goes on, or has just ended."""

    kind: str
    object: str
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    began_at_ns: int = field(default_factory=now_ns)
    caller: str = field(default_factory=caller.current.get)
    steps: list[str] = field(default_factory=list)
    """Names of the spans that it is in, innermost last."""
    progress: Callable[[], tuple[int, int]] = _uncounted
    """Bytes that are done, and of how many."""
    scopes: list[anyio.CancelScope] = field(default_factory=list)
    cancelled_by: str = ""
    done: anyio.Event = field(default_factory=anyio.Event)
    answer: Any = None
    error: BaseException | None = None


_current: ContextVar[Operation | None] = ContextVar("operation", default=None)


class Operations:
    """The running operations of a service."""

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._running: dict[Key, Operation] = {}
        self._counted: list[Operation] = []

    def running(self, key: Key) -> bool:
        return key in self._running

    def all(self) -> list[Operation]:
        """Those that go on, oldest first."""
        going = [*self._running.values(), *self._counted]
        return sorted(going, key=lambda operation: operation.began_at_ns)

    async def join(self, key: Key, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work` unless an operation with this key runs already, and wait for its answer."""
        operation = self._running.get(key)
        if operation is None:
            operation = self._running[key] = Operation(key.kind, key.object)
            self._group.start_soon(self._run, key, operation, work, name=f"operation {key}")
        await operation.done.wait()
        if operation.error is not None:
            raise operation.error
        answer: T = operation.answer
        return answer

    async def wait(self, key: Key) -> None:
        """Wait until no operation with this key runs, whatever its outcome."""
        while operation := self._running.get(key):
            await operation.done.wait()

    @contextmanager
    def counted(self, kind: str, name: str, progress: Callable[[], tuple[int, int]]) -> Iterator[Operation]:
        """List what the block does, for work that has its own way of being joined."""
        operation = Operation(kind, name, progress=progress)
        self._counted.append(operation)
        with _entered(operation):
            try:
                yield operation
            finally:
                self._counted.remove(operation)

    def cancel(self, name: str) -> Operation:
        """End an operation, by its id or the beginning of it.

        Raises:
            NotFoundError: no such operation goes on.
            InvalidArgumentError: several ids begin so.
            FailedPreconditionError: it is at a step that cannot be cut short.
        """
        fitting = [each for each in self.all() if name and each.id.startswith(name)]
        if not fitting:
            raise NotFoundError(f"operation {name!r}: none of this id goes on")
        if len(fitting) > 1:
            raise InvalidArgumentError(f"operation {name!r}: {len(fitting)} ids begin so")
        found = fitting[0]
        if not found.scopes:
            where = f" at {found.steps[-1]}" if found.steps else ""
            raise FailedPreconditionError(f"operation {found.id}: {found.kind} cannot be cut short{where}")
        found.cancelled_by = caller.current.get() or "nobody"
        found.scopes[-1].cancel()
        return found

    async def _run(self, key: Key, operation: Operation, work: Callable[[], Awaitable[Any]]) -> None:
        operation.error = UnavailableError(f"{key}: the service is stopping")
        start = time.monotonic()
        try:
            with _entered(operation), _RUNNING.labels(metrics.service(), operation.kind).track_inprogress():
                operation.answer = await work()
            operation.error = None
        except SlipwayError as exc:
            operation.error = exc
        except Exception as exc:  # noqa: BLE001 - the border: the callers, if any stayed, get it, the service goes on
            _log.exception("operation.bug", operation=str(key))
            operation.error = exc
        finally:
            del self._running[key]
            result = "failed" if operation.error else "ok"
            _SECONDS.labels(metrics.service(), operation.kind, result).observe(time.monotonic() - start)
            operation.done.set()


@contextmanager
def cancellable() -> Iterator[None]:
    """Let the current operation be cancelled while the block runs, whose caller undoes what was made.

    Raises:
        AbortedError: it was.
    """
    operation = _current.get()
    if operation is None:
        yield
        return
    with anyio.CancelScope() as scope:
        operation.scopes.append(scope)
        try:
            yield
        finally:
            operation.scopes.remove(scope)
    if scope.cancelled_caught:
        raise AbortedError(f"{operation.kind} {operation.object}: cancelled by {operation.cancelled_by}")


@contextmanager
def _entered(operation: Operation) -> Iterator[None]:
    token = _current.set(operation)
    try:
        yield
    finally:
        _current.reset(token)


def _begun(name: str) -> None:
    operation = _current.get()
    if operation is not None:
        operation.steps.append(name)


def _ended(name: str, _seconds: float) -> None:
    operation = _current.get()
    if operation is not None and name in operation.steps:
        operation.steps.remove(name)


trace.step_begun.append(_begun)
trace.step_ended.append(_ended)
