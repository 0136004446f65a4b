"""Requests that were taken from the kernel and are not answered yet, in memory that outlives the server.

The kernel gives a request out once. It is read straight into a slot, so that a server that is killed at any moment
leaves behind what it had taken, and the next one answers that first.
"""

import mmap
import os
import queue
from collections.abc import Iterator

from snapshotd.lazy.wire import REQUEST_BYTES, length

COUNT = 64
MAX_TRIES = 3
"""A request at which so many servers have died is answered with an error."""
_TRIES = 8
"""Bytes after a request that count the servers."""
_SLOT_BYTES = REQUEST_BYTES + _TRIES
BYTES = COUNT * _SLOT_BYTES


def make() -> int:
    """The memory; its descriptor."""
    fd = os.memfd_create("slipway-lazy", 0)
    os.ftruncate(fd, BYTES)
    return fd


class Slots:
    """The slots of one server.

    Args:
        fd: of their memory.
    """

    def __init__(self, fd: int) -> None:
        self._memory = memoryview(mmap.mmap(fd, BYTES))
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._left: list[int] = []
        for slot in range(COUNT):
            if length(self.request(slot)):
                self._left.append(slot)
            else:
                self._free.put(slot)

    def left(self) -> Iterator[tuple[int, bool]]:
        """Slots with requests that a dead server left, and whether these may be tried again."""
        for slot in self._left:
            tries = self._tail(slot)
            tries[0] += 1
            yield slot, tries[0] < MAX_TRIES

    def take(self) -> int:
        """A free slot; waits for one."""
        return self._free.get()

    def request(self, slot: int) -> memoryview:
        """Where a slot's request is."""
        start = slot * _SLOT_BYTES
        return self._memory[start : start + REQUEST_BYTES]

    def free(self, slot: int) -> None:
        """The request in a slot is answered."""
        self.request(slot)[:4] = bytes(4)
        self._tail(slot)[0] = 0
        self._free.put(slot)

    def _tail(self, slot: int) -> memoryview:
        start = slot * _SLOT_BYTES + REQUEST_BYTES
        return self._memory[start : start + _TRIES]
