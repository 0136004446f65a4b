"""A process, this one, and how many descriptors it may have."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def none_left() -> Iterator[None]:
    """Nothing can be opened or accepted by this process while the block runs."""
    os.close(lowest := os.dup(0))
    with at_most(lowest):
        yield


@contextmanager
def at_most(number: int) -> Iterator[None]:
    """This process may have so many while the block runs, and what it starts may raise that."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
