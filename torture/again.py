"""Calls as a kubelet makes them: asked again for as long as the answer is that the node is away for a moment."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import grpc

T = TypeVar("T")
PATIENCE_S = 60.0
WAIT_S = 0.1
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.CANCELLED)


class Again:
    """Asks again, and counts how often.

    Args:
        patience_s: how long a call may be refused for the moment before that is a failure.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self.refused: Counter[str] = Counter()

    async def __call__(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """The answer of a call; raises what is not of the moment."""
        last: grpc.aio.AioRpcError | None = None
        with anyio.move_on_after(self._patience_s):
            while True:
                try:
                    return await call()
                except grpc.aio.AioRpcError as exc:
                    if not is_passing(exc):
                        raise
                    last = exc
                    self.refused[what] += 1
                await anyio.sleep(WAIT_S)
        if last is None:
            message = f"{what}: no answer for {self._patience_s:g} s"
            raise TimeoutError(message)
        raise last


def is_passing(exc: grpc.aio.AioRpcError) -> bool:
    """Whether the caller is to ask again: the service is away, or died over the call."""
    if exc.code() in _PASSING:
        return True
    return exc.code() is grpc.StatusCode.UNKNOWN and exc.details() == "Stream removed"
