"""One client's connection, after its upgrade: bytes both ways, and whether the client is still there."""

import array
import fcntl
import socket
import termios
import time
from contextlib import suppress
from typing import Protocol

import anyio
from anyio.abc import ByteStream, SocketAttribute

CHUNK_BYTES = 256 << 10
LINGER_S = 5.0
"""How long a client that was refused may take to close; closing first could cost it the reason."""
CHECK_S = 1.0
"""How often a client whose bytes are not read is asked whether it is still there."""
_TCP_CLOSE, _TCP_CLOSE_WAIT = 7, 8  # include/net/tcp_states.h


class ClientGoneError(Exception):
    """The client closed the connection, or reset the stream."""


class Pipe(Protocol):
    """Bytes both ways; one reader at a time, writers take turns."""

    async def receive(self) -> bytes:
        """The next bytes; b"" at the end, however it came."""
        ...

    async def send(self, data: bytes) -> None:
        """Send all of it, and wait while the client is behind.

        Raises:
            ClientGoneError: nobody reads any more.
        """
        ...


class Wire:
    """A Pipe over TCP or TLS."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._rest = b""
        self._sending = anyio.Lock()
        self._moved_at = time.monotonic()
        self._reading = False

    def unread(self, data: bytes) -> None:
        """Put back bytes that came behind the request."""
        self._rest = data + self._rest

    async def receive(self) -> bytes:
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        self._reading = True
        try:
            data = await self._stream.receive(CHUNK_BYTES)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return b""
        finally:
            self._reading = False
        self._moved_at = time.monotonic()
        return data

    async def send(self, data: bytes) -> None:
        async with self._sending:
            try:
                await self._stream.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
                raise ClientGoneError("the client closed the connection") from exc
        self._moved_at = time.monotonic()

    async def watch(self, idle_s: float, ping: bytes, scope: anyio.CancelScope) -> None:
        """Cancel the scope when the client is gone, or nothing has moved for `idle_s`.

        While nothing is read here the end of a client waits unseen behind its input, or does not come at all because
        the window is closed. So `ping`, a frame of the client's protocol, is sent: a socket that was closed answers
        with a reset, which shows in the state of ours.
        """
        unsent = 0
        while True:
            await anyio.sleep(min(CHECK_S, idle_s))
            before, unsent = unsent, self._unsent()
            if unsent < before:  # a slow client reads what was sent long ago
                self._moved_at = time.monotonic()
            still_s = time.monotonic() - self._moved_at
            if still_s >= idle_s:
                break
            if still_s >= CHECK_S and not self._reading:
                if self._closed_by_peer():
                    break
                await self._ask(ping)
        scope.cancel()

    async def _ask(self, ping: bytes) -> None:
        """Send a ping, unless what was sent before is still under way and asks already."""
        if self._sending.locked() or self._unsent():
            return
        async with self._sending:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # seen next time
                await self._stream.send(ping)

    def _unsent(self) -> int:
        """How many bytes the peer's kernel has not acknowledged."""
        count = array.array("i", [0])
        with suppress(OSError):
            fcntl.ioctl(self._socket(), termios.TIOCOUTQ, count)
        return count[0]

    def _closed_by_peer(self) -> bool:
        try:
            state = self._socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except OSError:
            return True
        return state in (_TCP_CLOSE, _TCP_CLOSE_WAIT)

    def _socket(self) -> socket.socket:
        handle: socket.socket = self._stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - no Django
        return handle

    async def finish(self) -> None:
        """Say that no more comes, and wait a little for the client to close."""
        with anyio.move_on_after(LINGER_S):
            with suppress(NotImplementedError):  # TLS has no half-close
                await self._stream.send_eof()
            while await self.receive():
                pass
