"""Who may transfer now: a bounded number at once, the pull of highest priority first, pulls of one priority in turn.

A turn is one blob, or one piece of a large one. Within a pull the earlier layers come first, so that they are unpacked
while the later ones come.
"""

import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class Queue:
    """The waiting transfers of one pull; made by `Turns.queue`."""

    def __init__(self, turns: "Turns", priority: int) -> None:
        self._turns = turns
        self.priority = priority
        """Of its next turns; may be changed."""
        self.waiting: list[tuple[int, int, anyio.Event]] = []
        """A heap of order, number and what is set when the turn comes."""

    @asynccontextmanager
    async def turn(self, order: int = 0) -> AsyncIterator[None]:
        """Wait for a turn, and have it for as long as the block runs.

        Args:
            order: of two that wait in this queue, the lower comes first.
        """
        await self._turns.wait(self, order)
        try:
            yield
        finally:
            self._turns.give_back()


class Turns:
    """Hands turns out. Belongs to one event loop.

    Args:
        limit: how many at once.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._numbers = itertools.count()
        self._queues: list[Queue] = []
        """Those that wait, the one that was served last at the end."""

    def queue(self, priority: int = 0) -> Queue:
        """A queue of its own for a pull."""
        return Queue(self, priority)

    async def wait(self, queue: Queue, order: int) -> None:
        """Take a turn, to be given back; a cancelled caller has none."""
        granted = anyio.Event()
        entry = (order, next(self._numbers), granted)
        heapq.heappush(queue.waiting, entry)
        if queue not in self._queues:
            self._queues.append(queue)
        self._grant()
        try:
            await granted.wait()
        except BaseException:
            if granted.is_set():
                self.give_back()
            else:
                queue.waiting.remove(entry)
                heapq.heapify(queue.waiting)
                if not queue.waiting:
                    self._queues.remove(queue)
            raise

    def give_back(self) -> None:
        self._free += 1
        self._grant()

    def _grant(self) -> None:
        while self._free and self._queues:
            # the first of several equals: the one whose last turn is longest ago
            queue = max(self._queues, key=lambda each: each.priority)
            self._queues.remove(queue)
            _, _, granted = heapq.heappop(queue.waiting)
            if queue.waiting:
                self._queues.append(queue)
            self._free -= 1
            granted.set()
