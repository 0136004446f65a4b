"""How patient tests are: one setting scales every deadline, for machines that are much slower than most."""

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

SLOWNESS = float(os.environ.get("SLIPWAY_TEST_SLOWNESS", "1"))
"""How many times slower than a developer's machine this one is, as in an emulated guest."""


def patience(seconds: float) -> float:
    """A deadline in seconds, as this machine needs it."""
    return seconds * SLOWNESS


def within(seconds: float, test: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The same async test, cancelled at its deadline: that test alone fails, the event loop goes on."""

    @functools.wraps(test)
    async def limited(*args: Any, **kwargs: Any) -> None:
        scope: anyio.CancelScope | None = None
        try:
            with anyio.fail_after(seconds) as scope:
                await test(*args, **kwargs)
        except TimeoutError as exc:
            if scope is None or not scope.cancelled_caught:
                raise
            message = f"not done within {seconds:.0f} s"
            raise AssertionError(message) from exc
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            message = "a call was cancelled"  # by gRPC itself; it must not reach anyio
            raise AssertionError(message) from exc

    return limited
