"""Streams over one SPDY/3.1 connection, seen from the server.

What arrives is held back by TCP and by the window of each stream, which a reader opens as it reads. What is sent waits
for the windows of the client from its first word about any of them on: Kubernetes' own clients never open one, and to
wait for them would be for ever. Those hold us back by TCP, all streams of a connection at once.
"""

from collections.abc import Callable

import anyio

from common.observe.log import get_logger
from common.turns import Turns
from crid.streaming import spdy
from crid.streaming.inbox import Inbox
from crid.streaming.wire import ClientGoneError, Pipe

MAX_STREAMS = 1024
_GRANT_BYTES = 32 << 10
_log = get_logger("streaming")


class SpdyStream:
    """One stream that the client opened."""

    def __init__(self, connection: "SpdyConnection", stream_id: int, headers: dict[str, str]) -> None:
        self.id = stream_id
        self.headers = headers
        self.inbox = Inbox()
        self._connection = connection
        self._read = 0
        self._widened = 0
        self._sent = 0
        self._opened: anyio.Event | None = None
        self.finished = False
        """Our half is closed."""
        self.remote_finished = False

    async def receive(self) -> bytes | None:
        """The next bytes; None when the client has closed its half.

        Raises:
            ClientGoneError: it reset the stream.
        """
        piece = await self.inbox.get()
        if piece is not None:
            self._read += len(piece)
            if self._read >= _GRANT_BYTES and not self.remote_finished:
                grant, self._read = self._read, 0
                await self._connection.send(spdy.window_update(self.id, grant))
        return piece

    async def send(self, data: bytes) -> None:
        """Send all of it, and wait while the client's window is full.

        Raises:
            ClientGoneError: the connection, or the stream, is gone.
        """
        rest = memoryview(data)
        while rest:
            while self._connection.has_windows and self._window <= 0 and not self.finished:
                self._opened = self._opened or anyio.Event()
                await self._opened.wait()
            if self.finished:
                raise ClientGoneError("the stream is closed")
            piece = rest[: self._window] if self._connection.has_windows else rest
            rest = rest[len(piece) :]
            self._sent += len(piece)
            await self._connection.send(spdy.data(self.id, bytes(piece)))

    @property
    def _window(self) -> int:
        """So many bytes more may be sent."""
        return self._connection.initial_window + self._widened - self._sent

    def widen(self, delta: int) -> None:
        """The client takes so many bytes more."""
        self._widened += delta
        self.look()

    def look(self) -> None:
        """The window has changed, or the end has come."""
        if self._opened is not None:
            self._opened.set()
            self._opened = None

    def cut(self) -> None:
        """The client reset it, or has gone: neither side says more."""
        self.finished = self.remote_finished = True
        self.inbox.fail()
        self.look()

    async def finish(self, last: bytes = b"") -> None:
        """Send the last bytes and close our half; idempotent."""
        if not self.finished:
            self.finished = True
            await self._connection.send(spdy.data(self.id, last, fin=True))
            self._connection.forget_if_done(self)


class SpdyConnection:
    """Reads frames for all streams, and writes for them in turn."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._reader = spdy.Reader()
        self._writer = spdy.Writer()
        self._writing = anyio.Lock()
        self._streams: dict[int, SpdyStream] = {}
        self._last_id = 0
        self._dropping = False
        self._answered = anyio.Event()
        self.initial_window = spdy.INITIAL_WINDOW_BYTES
        self.has_windows = False
        """Whether the client has shown that it tells of its windows."""

    async def send(self, frame: bytes) -> None:
        """Send a frame that has no headers."""
        await self._pipe.send(frame)

    async def taken(self) -> None:
        """Wait until the client has read all that was sent: a ping behind it comes back."""
        await self.send(spdy.ping(spdy.LAST_ID))
        await self._answered.wait()

    async def run(self, accept: Callable[[SpdyStream], bool]) -> None:
        """Read until the client closes or says what is no SPDY; `accept` gets each new stream, False refuses it."""
        try:
            while data := await self._pipe.receive():
                turns = Turns()
                for frame in self._reader.feed(data):
                    await self._handle(frame, accept)
                    await turns.give()
        except spdy.FrameError as exc:
            _log.info("spdy.malformed", error=str(exc))
            await self._farewell()
        except ClientGoneError:
            pass
        finally:
            for stream in tuple(self._streams.values()):
                stream.cut()

    def drop(self) -> None:
        """Whatever still comes is read and forgotten."""
        self._dropping = True
        for stream in self._streams.values():
            stream.inbox.drop()

    def forget_if_done(self, stream: SpdyStream) -> None:
        if stream.finished and stream.remote_finished:
            self._streams.pop(stream.id, None)

    async def _farewell(self) -> None:
        try:
            await self._pipe.send(spdy.goaway(self._last_id))
        except ClientGoneError:
            return

    async def _handle(self, frame: spdy.Frame, accept: Callable[[SpdyStream], bool]) -> None:
        match frame:
            case spdy.Data():
                await self._data(frame)
            case spdy.SynStream():
                await self._open(frame, accept)
            case spdy.Headers(stream_id=stream_id, fin=True):
                self._remote_end(stream_id)
            case spdy.RstStream(stream_id=stream_id):
                stream = self._streams.pop(stream_id, None)
                if stream is not None:
                    stream.cut()
            case spdy.Ping(ping_id=ping_id) if ping_id % 2:
                await self.send(spdy.ping(ping_id))
            case spdy.Ping(ping_id=spdy.LAST_ID):
                self._answered.set()
            case spdy.WindowUpdate() | spdy.InitialWindow():
                self._widen(frame)
            case _:
                pass  # GOAWAY: the client closes next; replies and other answered pings mean nothing to a server

    def _widen(self, frame: spdy.WindowUpdate | spdy.InitialWindow) -> None:
        self.has_windows = True
        if isinstance(frame, spdy.InitialWindow):
            self.initial_window = frame.size
            for stream in self._streams.values():
                stream.look()
        elif frame.stream_id in self._streams:
            self._streams[frame.stream_id].widen(frame.delta)

    async def _data(self, frame: spdy.Data) -> None:
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            return  # of a stream that was reset or refused meanwhile
        await stream.inbox.put(frame.data)
        if frame.fin:
            self._remote_end(frame.stream_id)

    def _remote_end(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.remote_finished = True
            stream.inbox.end()
            self.forget_if_done(stream)

    async def _open(self, frame: spdy.SynStream, accept: Callable[[SpdyStream], bool]) -> None:
        if frame.stream_id <= self._last_id or frame.stream_id % 2 == 0:
            raise spdy.FrameError(f"stream {frame.stream_id} is opened after {self._last_id}")
        self._last_id = frame.stream_id
        stream = SpdyStream(self, frame.stream_id, frame.headers)
        if self._dropping or len(self._streams) >= MAX_STREAMS or not accept(stream):
            await self.send(spdy.rst_stream(frame.stream_id, spdy.REFUSED_STREAM))
            return
        self._streams[stream.id] = stream
        async with self._writing:
            await self.send(self._writer.syn_reply(frame.stream_id, {}))
        if frame.fin:
            self._remote_end(frame.stream_id)
