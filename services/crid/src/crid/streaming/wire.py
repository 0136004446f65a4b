"""One client's connection, after its upgrade: bytes both ways, and whether the client is still there."""

import socket
import time
from contextlib import suppress
from typing import Protocol

import anyio
from anyio.abc import ByteStream, SocketAttribute

CHUNK_BYTES = 256 << 10
LINGER_S = 5.0
"""How long a client may take to close after the last byte; closing first could cost it what is under way."""
CHECK_S = 5.0
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

    def unread(self, data: bytes) -> None:
        """Put back bytes that came behind the request."""
        self._rest = data + self._rest

    async def receive(self) -> bytes:
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        try:
            data = await self._stream.receive(CHUNK_BYTES)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return b""
        self._moved_at = time.monotonic()
        return data

    async def send(self, data: bytes) -> None:
        async with self._sending:
            try:
                await self._stream.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
                raise ClientGoneError("the client closed the connection") from exc
        self._moved_at = time.monotonic()

    async def watch(self, idle_s: float, scope: anyio.CancelScope) -> None:
        """Cancel the scope when the client is gone, or nothing has moved for `idle_s`.

        A client that went while its input waits to be read shows in the socket's state only.
        """
        while True:
            await anyio.sleep(min(CHECK_S, idle_s))
            still_s = time.monotonic() - self._moved_at
            if still_s >= idle_s or (still_s >= CHECK_S and self._closed_by_peer()):
                scope.cancel()
                return

    def _closed_by_peer(self) -> bool:
        handle = self._stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - no Django
        try:
            state = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except OSError:
            return True
        return state in (_TCP_CLOSE, _TCP_CLOSE_WAIT)

    async def finish(self) -> None:
        """Say that no more comes, and wait a little for the client to close."""
        with anyio.move_on_after(LINGER_S):
            with suppress(NotImplementedError):  # TLS has no half-close
                await self._stream.send_eof()
            while await self.receive():
                pass
