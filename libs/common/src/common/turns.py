"""Long work on the event loop, in slices: what everything else on the loop waits for is one slice."""

import time

from anyio.lowlevel import checkpoint

SLICE_S = 0.004
"""Work in one go; what is read, told or encoded in the same turn comes on top."""


class Turns:
    """The slices of one piece of work; `give` is called between its steps."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    async def give(self) -> None:
        """Let the others have their turn, if this one has taken long enough."""
        if time.perf_counter() - self._since > SLICE_S:
            await checkpoint()
            self._since = time.perf_counter()
