"""The wall clock, in one place."""

import time


def now_ns() -> int:
    """Unix time in nanoseconds."""
    return time.time_ns()
