"""GetContainerEvents: what happens, to whoever listens now; a slow listener is cut off, nobody waits for it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from common.api.cri.v1 import api_pb2 as cri
from common.errors import ResourceExhaustedError
from runtimed import meters


@dataclass(eq=False)
class _Listener:
    sender: MemoryObjectSendStream[cri.ContainerEventResponse]
    behind: bool = field(default=False)


class Feed:
    """The listeners.

    Args:
        buffer: events that one listener may be behind.
    """

    def __init__(self, buffer: int) -> None:
        self._buffer = buffer
        self._listeners: set[_Listener] = set()

    @property
    def heard(self) -> bool:
        """Whether anybody listens: making an event costs."""
        return bool(self._listeners)

    def publish(self, event: cri.ContainerEventResponse) -> None:
        for listener in tuple(self._listeners):
            try:
                listener.sender.send_nowait(event)
            except anyio.WouldBlock:
                listener.behind = True
                meters.READERS_CUT.inc()
                self._listeners.discard(listener)
                listener.sender.close()

    @contextmanager
    def listen(self) -> Iterator[AsyncIterator[cri.ContainerEventResponse]]:
        """Events from now on; the iteration ends with ResourceExhaustedError when the listener was too slow."""
        sender, receiver = anyio.create_memory_object_stream[cri.ContainerEventResponse](self._buffer)
        listener = _Listener(sender)
        self._listeners.add(listener)
        try:
            yield self._events(listener, receiver)
        finally:
            self._listeners.discard(listener)
            sender.close()
            receiver.close()

    async def _events(
        self, listener: _Listener, receiver: MemoryObjectReceiveStream[cri.ContainerEventResponse]
    ) -> AsyncIterator[cri.ContainerEventResponse]:
        async for event in receiver:
            yield event
        if listener.behind:
            raise ResourceExhaustedError(
                f"this reader was {self._buffer} events behind: list, then listen again"
            )
