"""Messages over one WebSocket connection, seen from the server."""

from collections.abc import Iterator
from contextlib import suppress

import anyio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage

from common.turns import Turns
from crid.streaming.wire import ClientGoneError, Wire

Message = BytesMessage | TextMessage
NORMAL, PROTOCOL_ERROR, TOO_BIG = 1000, 1002, 1009
PING = b"\x89\x00"
"""A ping of the server's, which may come between any two frames of a connection; the pong is of no interest."""


class WebSocket:
    """Pings are answered here; messages come in the pieces in which they arrive."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._connection = Connection(ConnectionType.SERVER)
        self._sending = anyio.Lock()
        self._events: Iterator[Event] = iter(())
        self._turns = Turns()

    async def receive(self) -> Message | None:
        """The next piece of a message; None when the client closed or spoke no WebSocket."""
        while True:
            for event in self._events:
                await self._turns.give()
                if isinstance(event, BytesMessage | TextMessage):
                    return event
                if isinstance(event, Ping):
                    with suppress(ClientGoneError):  # then the next read says so
                        await self._send(event.response())
                elif isinstance(event, CloseConnection):
                    if self._connection.state is not ConnectionState.CLOSED:
                        await self.close(event.code)
                    return None
            data = await self._wire.receive()
            if not data:
                return None
            self._connection.receive_data(data)
            self._events = self._connection.events()
            self._turns = Turns()

    async def send(self, data: bytes | str) -> None:
        """Send one message.

        Raises:
            ClientGoneError: the connection is closed.
        """
        await self._send(TextMessage(data) if isinstance(data, str) else BytesMessage(data))

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Send the closing frame, once; the client's answer ends `receive`."""
        if self._connection.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            try:
                await self._send(CloseConnection(code, reason))
            except ClientGoneError:
                return

    async def _send(self, event: Event) -> None:
        async with self._sending:
            if self._connection.state not in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
                raise ClientGoneError("the WebSocket is closed")
            if not isinstance(event, CloseConnection) and self._connection.state is not ConnectionState.OPEN:
                return
            await self._wire.send(self._connection.send(event))


class Tunnel:
    """A Pipe whose bytes travel in binary messages: SPDY over WebSocket."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def receive(self) -> bytes:
        while (message := await self._websocket.receive()) is not None:
            if isinstance(message, TextMessage):
                await self._websocket.close(PROTOCOL_ERROR, "a text message in a tunnel of bytes")
                return b""
            if message.data:
                return bytes(message.data)
        return b""

    async def send(self, data: bytes) -> None:
        await self._websocket.send(data)
