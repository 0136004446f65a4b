"""Waiting for a fact of another process, where there is no event to wait for."""

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar, overload

import anyio

from tests.support.pace import patience

T = TypeVar("T")
_LOOK_S = 0.02


def eventually(
    fn: Callable[[], T | Literal[False] | None], *, within_s: float = 15.0, what: str = "the condition"
) -> T:
    """Call until the answer is true, and return it; fails when it is not within the time."""
    deadline = time.monotonic() + patience(within_s)
    while time.monotonic() < deadline:
        found = fn()
        if found:
            return found
        time.sleep(_LOOK_S)
    message = f"{what}: not within {patience(within_s):.0f} s"
    raise AssertionError(message)


@overload
async def until(
    fn: Callable[[], Awaitable[T | Literal[False] | None]],
    what: str,
    *,
    within_s: float = ...,
    but: type[Exception] | None = ...,
) -> T: ...
@overload
async def until(
    fn: Callable[[], T | Literal[False] | None],
    what: str,
    *,
    within_s: float = ...,
    but: type[Exception] | None = ...,
) -> T: ...
async def until(
    fn: Callable[[], Awaitable[object] | object],
    what: str,
    *,
    within_s: float = 20.0,
    but: type[Exception] | None = None,
) -> object:
    """The same, beside what else goes on in an async test.

    Args:
        fn: is called, and awaited if it is async, until the answer is true.
        what: is waited for, as the failure shall say.
        within_s: the most that it may take; a call of `fn` that takes longer is cancelled.
        but: an error of `fn` that is no answer yet.
    """
    missed: Exception | None = None
    with anyio.move_on_after(patience(within_s)):
        while True:
            try:
                found = fn()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return found
            except Exception as exc:
                if but is None or not isinstance(exc, but):
                    raise
                missed = exc
            await anyio.sleep(_LOOK_S)
    message = f"{what}: not within {patience(within_s):.0f} s"
    raise AssertionError(message) from missed
