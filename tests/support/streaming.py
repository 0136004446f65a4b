"""A client of the streaming URLs: SPDY/3.1, WebSocket, and one through the other. Blocking: run it in a thread."""

import base64
import hashlib
import os
import socket
import ssl
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import urlsplit

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from crid.streaming import spdy

TIMEOUT_S = 30.0
_MAY_END = spdy.SynStream | spdy.SynReply | spdy.Headers | spdy.Data


class RefusedError(Exception):
    """The server did not switch protocols."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status


class Socket:
    """A connection that was upgraded."""

    def __init__(
        self, url: str, headers: list[tuple[str, str]], context: ssl.SSLContext | None = None
    ) -> None:
        parts = urlsplit(url)
        raw = socket.create_connection((parts.hostname, parts.port), TIMEOUT_S)
        self.sock = context.wrap_socket(raw, server_hostname=parts.hostname) if context else raw
        lines = [f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}", *(f"{k}: {v}" for k, v in headers)]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        self._rest = b""
        while b"\r\n\r\n" not in self._rest:
            self._rest += self.sock.recv(65536) or b"HTTP/1.1 0 closed\r\n\r\n"
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        if status != 101:
            while piece := self.sock.recv(65536):
                self._rest += piece
            self.sock.close()
            raise RefusedError(status, self._rest.decode())
        self.headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])

    def receive(self) -> bytes:
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        try:
            return self.sock.recv(1 << 18)
        except ConnectionResetError:
            return b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class WebSocket(Socket):
    """Whole messages."""

    def __init__(self, url: str, *protocols: str, context: ssl.SSLContext | None = None) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        headers = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
        headers += [("Sec-WebSocket-Key", key), ("Sec-WebSocket-Protocol", ", ".join(protocols))]
        super().__init__(url, headers, context)
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()  # noqa: S324 - RFC 6455
        assert self.headers["sec-websocket-accept"] == base64.b64encode(digest).decode().lower()
        self._connection = Connection(ConnectionType.CLIENT)
        self._pieces: list[Any] = []
        self.close_code = 0

    def write(self, data: bytes | str) -> None:
        self.send(self._connection.send(TextMessage(data) if isinstance(data, str) else BytesMessage(data)))

    def ping(self) -> None:
        self.send(self._connection.send(Ping()))

    def read(self) -> list[Any]:
        """The next messages, perhaps none of them whole yet; check `close_code` for the end."""
        data = self.receive()
        if not data:
            self.close_code = self.close_code or 1006
            return []
        self._connection.receive_data(data)
        found = []
        for event in self._connection.events():
            if isinstance(event, BytesMessage | TextMessage):
                self._pieces.append(event.data)
                if event.message_finished:
                    found.append(type(event.data)().join(self._pieces))
                    self._pieces = []
            elif isinstance(event, Ping):
                self.send(self._connection.send(event.response()))
            elif isinstance(event, CloseConnection):
                self.close_code = event.code
        return found

    def collect(self) -> dict[int, bytes]:
        """Read until the server closes; bytes by channel."""
        found: dict[int, bytes] = defaultdict(bytes)
        while not self.close_code:
            for message in self.read():
                text = isinstance(message, str)
                found[int(message[0]) if text else message[0]] += (
                    base64.b64decode(message[1:]) if text else message[1:]
                )
        return found


class _Tunnel(WebSocket):
    """Bytes in binary messages."""

    def receive_bytes(self) -> bytes:
        while not self.close_code:
            if messages := self.read():
                return b"".join(messages)
        return b""


class Spdy:
    """Streams over a connection, or through a WebSocket."""

    def __init__(
        self,
        url: str,
        protocol: str,
        *,
        tunnel: str = "",
        upgrade: str = "SPDY/3.1",
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.link: Socket
        self.receive: Callable[[], bytes]
        self.send: Callable[[bytes], None]
        if tunnel:
            self.link = through = _Tunnel(url, tunnel, context=context)
            self.receive, self.send = through.receive_bytes, through.write
        else:
            headers = [
                ("Connection", "Upgrade"),
                ("Upgrade", upgrade),
                ("X-Stream-Protocol-Version", protocol),
            ]
            self.link = Socket(url, headers, context)
            self.receive, self.send = self.link.receive, self.link.send
        self._reader, self._writer = spdy.Reader(), spdy.Writer()
        self._last = -1
        self.ids: dict[str, int] = {}
        self.ended: set[int] = set()

    def open(self, kind: str, **headers: str) -> int:
        """Open a stream of a type."""
        self._last += 2
        self.ids[kind] = self._last
        self.send(self._writer.syn_stream(self._last, {"streamtype": kind, **headers}))
        return self._last

    def write(self, stream: int, data: bytes, *, fin: bool = False) -> None:
        self.send(spdy.data(stream, data, fin=fin))

    def read(self) -> list[tuple[int, bytes]]:
        """The next pieces of streams.

        Raises:
            EOFError: the server closed.
        """
        data = self.receive()
        if not data:
            raise EOFError
        found = []
        for frame in self._reader.feed(data):
            if isinstance(frame, spdy.Data):
                found.append((frame.stream_id, frame.data))
            if isinstance(frame, spdy.Ping) and frame.ping_id % 2 == 0:
                self.send(spdy.ping(frame.ping_id))
            if isinstance(frame, spdy.RstStream) or (isinstance(frame, _MAY_END) and frame.fin):
                self.ended.add(frame.stream_id)
        return found

    def collect(self, *streams: int) -> dict[int, bytes]:
        """Read until these streams have ended."""
        found: dict[int, bytes] = defaultdict(bytes)
        while not set(streams) <= self.ended:
            for stream, piece in self.read():
                found[stream] += piece
        return found

    def close(self) -> None:
        self.link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
