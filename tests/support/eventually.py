"""Waiting for a fact of another process, where there is no event to wait for."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.support.pace import patience

T = TypeVar("T")


def eventually(fn: Callable[[], T], *, within_s: float = 15.0, what: str = "the condition") -> T:
    """Call until the answer is true, and return it; fails when it is not within the time."""
    deadline = time.monotonic() + patience(within_s)
    while time.monotonic() < deadline:
        found = fn()
        if found:
            return found
        time.sleep(0.02)
    message = f"{what}: not within {patience(within_s):.0f} s"
    raise AssertionError(message)
