"""A stream of one shim: the bytes of an exec or of an attached container, or its events."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from common.clients.shimframes import QUEUED_BYTES, Frames, Message, raise_error
from common.errors import DataLossError


class ShimStream:
    """The bytes of an exec or of an attached container, both ways."""

    def __init__(self, protocol: Frames) -> None:
        self._protocol = protocol
        self._queue: deque[tuple[Message, int]] = deque()
        self._queued = 0
        self._paused = False
        self._arrived = asyncio.Event()
        self.exit_code: int | None = None
        """Set when `read` has returned None, unless the connection was cut."""
        protocol.on_frame = self._frame
        protocol.on_lost = self._arrived.set

    def _frame(self, message: Message, size: int) -> None:
        self._queue.append((message, size))
        self._queued += size
        self._arrived.set()
        if self._queued > QUEUED_BYTES and not self._paused and self._protocol.transport is not None:
            self._paused = True
            self._protocol.transport.pause_reading()

    async def next_message(self) -> Message | None:
        """The next frame as it is; None at the end."""
        while not self._queue:
            if self._protocol.lost:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        message, size = self._queue.popleft()
        self._queued -= size
        if self._paused and self._queued < QUEUED_BYTES // 2 and self._protocol.transport is not None:
            self._paused = False
            self._protocol.transport.resume_reading()
        return message

    async def read(self) -> tuple[int, bytes] | None:
        """Stream (1 or 2) and bytes; None at the end, when `exit_code` is set."""
        while (message := await self.next_message()) is not None:
            if "exit" in message:
                self.exit_code = message["exit"]
                return None
            if "s" in message:
                return message["s"], message["d"]
            if "error" in message:
                raise_error(message["error"])
            raise DataLossError(f"shim: a frame of unknown keys {sorted(message)}")
        return None

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        while (piece := await self.read()) is not None:
            yield piece

    async def write(self, data: bytes) -> None:
        """Send input; waits while the process does not read."""
        for at in range(0, len(data), 65536):
            await self._protocol.send({"s": 0, "d": bytes(data[at : at + 65536])})

    async def close_stdin(self) -> None:
        await self._protocol.send({"close": 0})

    async def resize(self, width: int, height: int) -> None:
        await self._protocol.send({"resize": [width, height]})

    async def close(self) -> None:
        """Close once all input is sent, however long the process does not read it; nothing more is read."""
        self._protocol.close()
        self._queue.clear()

    @property
    def closed(self) -> bool:
        """Whether the connection is gone, and all input with it."""
        return self._protocol.lost

    def abort(self) -> None:
        """Close now, and forget input that was not sent: it would keep an exec alive that does not read."""
        self._protocol.abort()
