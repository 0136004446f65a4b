"""The channels of exec and attach, over SPDY and over WebSocket."""

import base64
import binascii
from typing import Protocol

import anyio
from wsproto.events import TextMessage

from crid.streaming.inbox import Inbox
from crid.streaming.mux import SpdyConnection, SpdyStream
from crid.streaming.websocket import NORMAL, PROTOCOL_ERROR, TOO_BIG, WebSocket
from crid.streaming.wire import Pipe

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
NAMES = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR, "resize": RESIZE}
_CLOSE = 255
_CLOSE_SINCE = 5
_RESIZE_SINCE = 3
_TEXT_BOUND = 1 << 20


class Channels(Protocol):
    """What a conversation needs of a protocol."""

    version: int
    """Of remotecommand: 1 to 5."""

    async def run(self) -> None:
        """Read until the client closes."""
        ...

    async def ready(self) -> None:
        """Wait until all channels are there."""
        ...

    async def receive(self, channel: int) -> bytes | None:
        """What the client sent on stdin or resize; None when it has closed that."""
        ...

    async def send(self, channel: int, data: bytes) -> None:
        """Raises ClientGoneError when the connection is gone."""
        ...

    async def finish(self, status: bytes) -> None:
        """Tell how it ended, and close our side of everything; what still comes is dropped.

        Returns once the client has read it, however slowly it does: to close earlier could cost it what is under way,
        here, or at a proxy between.
        """
        ...


class WebSocketChannels:
    """Each message begins with its channel: a byte, or a digit before base64."""

    def __init__(self, websocket: WebSocket, version: int, *, text: bool) -> None:
        self.version = version
        self._websocket = websocket
        self._text = text
        self._inboxes = {STDIN: Inbox(), RESIZE: Inbox()}
        self._channel: int | None = None
        self._held = ""

    async def run(self) -> None:
        while (message := await self._websocket.receive()) is not None:
            if isinstance(message, TextMessage) is not self._text:
                wanted = "text" if self._text else "binary"
                await self._websocket.close(PROTOCOL_ERROR, f"messages of this protocol are {wanted}")
                return
            if isinstance(message, TextMessage):
                if not await self._take_text(message.data, ended=message.message_finished):
                    return
            else:
                await self._take(bytes(message.data), ended=message.message_finished)

    async def _take_text(self, text: str, *, ended: bool) -> bool:
        self._held += text
        if len(self._held) > _TEXT_BOUND:
            await self._websocket.close(TOO_BIG, f"a message of more than {_TEXT_BOUND} bytes")
            return False
        if ended:
            whole, self._held = self._held, ""
            try:
                data = bytes([ord(whole[0]) - ord("0")]) + base64.b64decode(whole[1:], validate=True)
            except (ValueError, IndexError, binascii.Error):
                await self._websocket.close(PROTOCOL_ERROR, "a message that is no digit and base64")
                return False
            await self._take(data, ended=True)
        return True

    async def _take(self, data: bytes, *, ended: bool) -> None:
        if self._channel is None and data:
            self._channel, data = data[0], data[1:]
        if self._channel == _CLOSE and self.version >= _CLOSE_SINCE:
            for channel in set(data):
                if channel in self._inboxes:
                    self._inboxes[channel].end()
        elif self._channel in self._inboxes:
            await self._inboxes[self._channel].put(data)
        if ended:
            self._channel = None

    async def ready(self) -> None:
        """They are there from the start."""

    async def receive(self, channel: int) -> bytes | None:
        return await self._inboxes[channel].get()

    async def send(self, channel: int, data: bytes) -> None:
        if self._text:
            await self._websocket.send(f"{channel}{base64.b64encode(data).decode()}")
        else:
            await self._websocket.send(bytes([channel]) + data)

    async def finish(self, status: bytes) -> None:
        for inbox in self._inboxes.values():
            inbox.drop()
        if status:
            await self.send(ERROR, status)
        await self._websocket.close(NORMAL)
        await anyio.sleep_forever()  # the client's answer ends `run`


class SpdyChannels:
    """Each channel is a stream, which the client opens with its name in the header `streamtype`."""

    def __init__(self, pipe: Pipe, version: int, wanted: set[int]) -> None:
        self.version = version
        self._connection = SpdyConnection(pipe)
        self._wanted = wanted if version >= _RESIZE_SINCE else wanted - {RESIZE}
        self._streams: dict[int, SpdyStream] = {}
        self._complete = anyio.Event()

    async def run(self) -> None:
        await self._connection.run(self._accept)

    def _accept(self, stream: SpdyStream) -> bool:
        channel = NAMES.get(stream.headers.get("streamtype", ""))
        if channel not in self._wanted or channel in self._streams:
            return False
        self._streams[channel] = stream
        if len(self._streams) == len(self._wanted):
            self._complete.set()
        return True

    async def ready(self) -> None:
        await self._complete.wait()

    async def receive(self, channel: int) -> bytes | None:
        stream = self._streams.get(channel)
        return None if stream is None else await stream.receive()

    async def send(self, channel: int, data: bytes) -> None:
        await self._streams[channel].send(data)

    async def finish(self, status: bytes) -> None:
        self._connection.drop()
        for channel in sorted(self._streams):
            await self._streams[channel].finish(status if channel == ERROR else b"")
        await self._connection.taken()
