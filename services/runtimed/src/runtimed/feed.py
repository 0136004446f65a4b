"""GetContainerEvents: what happens, to whoever listens now; a slow listener is cut off, nobody waits for it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from common.api.cri.v1 import api_pb2 as cri
from common.errors import ResourceExhaustedError


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
                self._listeners.discard(listener)
                listener.sender.close()

    async def listen(self) -> AsyncIterator[cri.ContainerEventResponse]:
        """Events from now on.

        Raises:
            ResourceExhaustedError: the listener was too slow.
        """
        sender, receiver = anyio.create_memory_object_stream[cri.ContainerEventResponse](self._buffer)
        listener = _Listener(sender)
        self._listeners.add(listener)
        try:
            async for event in receiver:
                yield event
        finally:
            self._listeners.discard(listener)
            sender.close()
            receiver.close()
        if listener.behind:
            raise ResourceExhaustedError(
                f"this reader was {self._buffer} events behind: list, then listen again"
            )
