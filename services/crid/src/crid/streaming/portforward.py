"""Port-forward: many connections to the ports of one sandbox over one connection of a client."""

from contextlib import suppress
from typing import Protocol

import anyio
from anyio.abc import SocketStream, TaskGroup

from common.errors import SlipwayError
from common.observe.log import get_logger
from common.sys.dial import dial
from crid.streaming.inbox import Inbox
from crid.streaming.mux import SpdyConnection, SpdyStream
from crid.streaming.websocket import PROTOCOL_ERROR, WebSocket
from crid.streaming.wire import CHUNK_BYTES, ClientGoneError, Pipe

MAX_ALONE = 64
"""Streams of one client that wait for their other half, each for as long as a client may take to open it."""
_log = get_logger("streaming")


class Tube(Protocol):
    """The client's end of one forwarded connection."""

    half_closed_s: float
    """How long the client may go on sending nothing after the port has closed."""

    async def receive(self) -> bytes | None:
        """None when the client closed its half; ClientGoneError when it reset it."""
        ...

    async def send(self, data: bytes) -> None:
        """Raises ClientGoneError when the client is gone."""
        ...

    async def close_output(self) -> None:
        """No more comes from the port."""
        ...

    async def end(self, problem: str) -> None:
        """All is over; a problem is told on the error channel."""
        ...


async def forward(tube: Tube, netns_path: str, port: int) -> None:
    """Join a client's tube with a new connection to a port."""
    try:
        try:
            target = await dial(netns_path, port)
        except SlipwayError as exc:
            _log.info("portforward.refused", port=port, error=exc.message)
            await tube.end(exc.message)
            return
        async with target:
            await _join(tube, target)
        await tube.end("")
    except ClientGoneError:
        return


async def _join(tube: Tube, target: SocketStream) -> None:
    async with anyio.create_task_group() as group:
        up = _Upstream(tube, target)
        group.start_soon(up.run, group.cancel_scope)
        try:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await tube.send(await target.receive(CHUNK_BYTES))
            await tube.close_output()
        except ClientGoneError:
            group.cancel_scope.cancel()
        up.limit()


class _Upstream:
    """From the client to the port; limited in time once nothing comes the other way any more."""

    def __init__(self, tube: Tube, target: SocketStream) -> None:
        self._tube = tube
        self._target = target
        self._scope = anyio.CancelScope()
        self._limited = False

    def limit(self) -> None:
        self._limited = True
        self._scope.deadline = anyio.current_time() + self._tube.half_closed_s

    async def run(self, whole: anyio.CancelScope) -> None:
        with self._scope:
            try:
                while (data := await self._tube.receive()) is not None:
                    await self._target.send(data)
                    if self._limited:
                        self.limit()
                await self._target.send_eof()
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # the port reads no more; what it still writes is carried on
            except ClientGoneError:
                whole.cancel()


class _SpdyTube:
    """A pair of streams: one of data, one of errors."""

    half_closed_s = 10.0

    def __init__(self, data: SpdyStream, error: SpdyStream) -> None:
        self._data = data
        self._error = error
        self.receive = data.receive
        self.send = data.send

    async def close_output(self) -> None:
        await self._data.finish()

    async def end(self, problem: str) -> None:
        await self._error.finish(problem.encode())
        await self._data.finish()
        self._data.inbox.drop()


async def serve_spdy(pipe: Pipe, netns_path: str, creation_s: float) -> None:
    """Serve a client of portforward.k8s.io until it closes."""
    connection = SpdyConnection(pipe)
    async with anyio.create_task_group() as group:
        pairs = _Pairs(group, netns_path, creation_s)
        await connection.run(pairs.accept)
        group.cancel_scope.cancel()


class _Pairs:
    """Puts the two streams of a request together; one that stays alone is ended."""

    def __init__(self, group: TaskGroup, netns_path: str, creation_s: float) -> None:
        self._group = group
        self._netns_path = netns_path
        self._creation_s = creation_s
        self._alone: dict[str, tuple[SpdyStream, anyio.Event]] = {}

    def accept(self, stream: SpdyStream) -> bool:
        kind, text = stream.headers.get("streamtype"), stream.headers.get("port", "")
        if kind not in ("data", "error") or not text.isdecimal() or not 0 < int(text) <= 65535:
            return False
        # Old clients send no request id: theirs are the streams that follow each other.
        key = stream.headers.get("requestid") or str(stream.id - (2 if kind == "data" else 0))
        other, found = self._alone.pop(key, (None, anyio.Event()))
        if other is None:
            if len(self._alone) >= MAX_ALONE:
                return False
            self._alone[key] = stream, found
            self._group.start_soon(self._wait, key, stream, found)
            return True
        if other.headers.get("streamtype") == kind:
            self._alone[key] = other, found
            return False
        found.set()
        data, error = (stream, other) if kind == "data" else (other, stream)
        self._group.start_soon(forward, _SpdyTube(data, error), self._netns_path, int(text))
        return True

    async def _wait(self, key: str, stream: SpdyStream, found: anyio.Event) -> None:
        with anyio.move_on_after(self._creation_s):
            await found.wait()
            return
        self._alone.pop(key, None)
        stream.inbox.drop()
        try:
            await stream.finish()
        except ClientGoneError:
            return


class _WebSocketTube:
    """Two channels of a WebSocket: data, and errors."""

    half_closed_s = 0.5
    """For what is under way: without a half-close, only our close tells the client. As long as containerd gives it."""

    def __init__(self, websocket: WebSocket, channel: int) -> None:
        self._websocket = websocket
        self._channel = channel
        self.inbox = Inbox()
        self.receive = self.inbox.get

    async def begin(self, port: int) -> None:
        """Tell the port on both channels; the client, whose channels these are by their order, does not."""
        for channel in (self._channel, self._channel + 1):
            await self._websocket.send(bytes([channel]) + port.to_bytes(2, "little"))

    async def send(self, data: bytes) -> None:
        await self._websocket.send(bytes([self._channel]) + data)

    async def close_output(self) -> None:
        """The protocol has no half-close."""

    async def end(self, problem: str) -> None:
        self.inbox.drop()
        if problem:
            await self._websocket.send(bytes([self._channel + 1]) + problem.encode())


async def serve_websocket(websocket: WebSocket, netns_path: str, ports: list[int]) -> None:
    """Serve a client of v4.channel.k8s.io, one connection for each port, until it closes.

    When all ports have ended it is told to, and has read everything before it does.
    """
    tubes = [_WebSocketTube(websocket, 2 * number) for number in range(len(ports))]

    async def read() -> None:
        channel: int | None = None
        while (message := await websocket.receive()) is not None:
            if isinstance(message.data, str):
                await websocket.close(PROTOCOL_ERROR, "messages of this protocol are binary")
                break
            data = bytes(message.data)
            if channel is None and data:
                channel, data = data[0], data[1:]
            if channel is not None and channel % 2 == 0 and channel // 2 < len(tubes):
                await tubes[channel // 2].inbox.put(data)
            if message.message_finished:
                channel = None
        group.cancel_scope.cancel()

    async def run(tube: _WebSocketTube, port: int) -> None:
        try:
            await tube.begin(port)
        except ClientGoneError:
            return
        await forward(tube, netns_path, port)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        async with anyio.create_task_group() as tasks:
            for tube, port in zip(tubes, ports, strict=True):
                tasks.start_soon(run, tube, port)
        await websocket.close()
