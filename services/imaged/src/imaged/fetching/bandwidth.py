"""One cap over all downloads of the node: a token bucket.

Who has taken more than there was waits for as long as the cap takes to make up for it. Pieces are small against the cap, so
that a small blob waits for a fraction of a second whatever else is on its way.
"""

import threading
import time

from imaged.fetching.interruptible import Stop

BURST_S = 0.25
"""Of the cap, what an idle node may take at once."""
CHUNK_S = 0.02
LEAST_CHUNK_BYTES, MOST_CHUNK_BYTES = 16 << 10, 1 << 20


class Bandwidth:
    """Thread-safe.

    Args:
        max_bytes_per_s: 0 for no cap.
    """

    def __init__(self, max_bytes_per_s: int = 0) -> None:
        self._rate = max_bytes_per_s
        self._lock = threading.Lock()
        self._free = self._rate * BURST_S
        self._at = time.monotonic()
        fitting = int(self._rate * CHUNK_S) or MOST_CHUNK_BYTES
        self.chunk_bytes = min(max(fitting, LEAST_CHUNK_BYTES), MOST_CHUNK_BYTES)
        """How much to read at once."""

    def spend(self, count: int, stop: Stop) -> None:
        """Count bytes that came, and wait while more came than may. Blocks until `stop` is set at most."""
        if not self._rate:
            return
        with self._lock:
            now = time.monotonic()
            self._free = min(self._free + (now - self._at) * self._rate, self._rate * BURST_S) - count
            self._at = now
            debt_s = -self._free / self._rate
        if debt_s > 0:
            stop.wait(debt_s)
