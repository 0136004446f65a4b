"""How far a pull is, how long it will take still, and telling so."""

import time
from collections import deque
from collections.abc import Awaitable, Callable

import anyio

from common.errors import UnavailableError
from common.events.schema import PullProgressed
from common.observe.log import get_logger
from imaged.pull import LayerState, Operation

LOOK_S = 0.5
SPARSER = 60
"""After half a minute a pull is told of at every sixtieth of the time gone, so that one of an hour is some 350 events."""
WINDOW_S = 10.0
"""The time left is reckoned by what came in so many seconds."""
_log = get_logger("imaged")


class Forecast:
    """Reckons the time left by what came lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def left_s(self, now_s: float, came_bytes: int, left_bytes: int) -> float | None:
        """The seconds that the rest will take; None while that is not known.

        Args:
            now_s: of a clock that only goes on.
            came_bytes: from the network, since the beginning.
            left_bytes: still to come.
        """
        self._seen.append((now_s, came_bytes))
        while now_s - self._seen[0][0] > WINDOW_S:
            self._seen.popleft()
        then_s, then_bytes = self._seen[0]
        if not left_bytes:
            return 0.0
        if now_s <= then_s or came_bytes <= then_bytes:
            return None
        return left_bytes * (now_s - then_s) / (came_bytes - then_bytes)


async def report(
    operation: Operation, emit: Callable[[PullProgressed], Awaitable[None]], listened: Callable[[], bool]
) -> None:
    """Keep a pull's forecast, and tell events of how far it is, until it ends.

    Args:
        operation: the pull.
        emit: tells an event.
        listened: whether events get through now. Progress that nobody hears is not kept for later.
    """
    forecast, start_s, told_s, last = Forecast(), time.monotonic(), 0.0, -1
    while not operation.done.is_set():
        with anyio.move_on_after(LOOK_S):
            await operation.done.wait()
        done, total = operation.bytes()
        now_s = time.monotonic()
        operation.left_s = forecast.left_s(now_s, operation.came_bytes(), total - done)
        due = now_s - told_s >= (now_s - start_s) / SPARSER
        layers_done = sum(status.state is LayerState.DONE for status in operation.statuses)
        ended = operation.done.is_set() or layers_done == len(operation.statuses)
        if ended or not due or done == last or not listened():
            continue
        told_s, last = now_s, done
        event = PullProgressed(
            id=str(operation.reference),
            fetched_bytes=done,
            size_bytes=total,
            layers=len(operation.statuses),
            layers_done=layers_done,
            left_s=-1 if operation.left_s is None else round(operation.left_s),
        )
        try:
            await emit(event)
        except UnavailableError as exc:
            _log.debug("event.lost", what="pull_progressed", error=exc.message)
