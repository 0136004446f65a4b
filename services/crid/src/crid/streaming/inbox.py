"""What has arrived for one reader: a bounded queue of bytes."""

from collections import deque

import anyio

from crid.streaming.wire import ClientGoneError

BOUND_BYTES = 256 << 10


class Inbox:
    """One task puts and waits while the reader is behind, one task gets."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._broken = False
        self._dropping = False
        self._changed = anyio.Event()

    async def put(self, data: bytes) -> None:
        """Hand over; waits while more than the bound is held."""
        while self._size >= BOUND_BYTES and not self._dropping:
            await self._changed.wait()
        if data and not self._dropping and not self._ended:
            self._pieces.append(data)
            self._size += len(data)
            self._tell()

    def end(self) -> None:
        """No more comes; what is held is still read."""
        self._ended = True
        self._tell()

    def fail(self) -> None:
        """The reader is told at once that its client is gone."""
        self._broken = True
        self.drop()

    def drop(self) -> None:
        """Nobody reads any more: forget what is held and what comes."""
        self._dropping = True
        self._pieces.clear()
        self._size = 0
        self.end()

    async def get(self) -> bytes | None:
        """The next piece; None at the end.

        Raises:
            ClientGoneError: it was cut off.
        """
        while not self._pieces:
            if self._broken:
                raise ClientGoneError("the client reset the stream")
            if self._ended:
                return None
            await self._changed.wait()
        piece = self._pieces.popleft()
        self._size -= len(piece)
        self._tell()
        return piece

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
