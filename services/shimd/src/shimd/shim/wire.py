"""Frames of the shim's socket: u32 big-endian length, then a msgpack map (docs/shim-protocol.md)."""

import _socket
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import msgpack

from shimd.shim.handover import Put
from shimd.shim.keeper import CLIENT
from shimd.shim.loop import IN, OUT, Loop

VERSION = 1
MAX_REQUEST_BYTES = 1 << 20
MAX_FRAME_BYTES = 20 << 20
_READ_BYTES = 64 << 10
_HEAD = struct.Struct(">I")
_CREDENTIALS = struct.Struct("iII")
Message = dict[str, Any]


def pack(message: Message) -> bytes:
    body: bytes = msgpack.packb(message)
    return _HEAD.pack(len(body)) + body


def blob(message: Message, key: str) -> bytes:
    """The bytes of a field, b"" without it; `bytes` would make a number into as many zeros."""
    value = message.get(key, b"")
    if not isinstance(value, bytes):
        raise TypeError(f"{key}: is no bytes")
    return value


def seconds(message: Message, key: str, otherwise: float) -> float:
    """The number of a field: not NaN, a timer of which would never be over and let none be waited for."""
    value = float(message.get(key, otherwise))
    if value != value:  # noqa: PLR0124 - math would be one more module in each shim
        raise ValueError(f"{key}: is no number")
    return value


class Connection:
    """One client: frames in, frames out, never blocking.

    What is queued for a slow reader is `pending` bytes; whoever sends decides what too much is.

    A peer that has gone is the end of a connection, unless `on_left` is set: then its frames are still read to
    their end, also after a time in which it was held back, and `on_left` is told.
    """

    def __init__(
        self, loop: Loop, sock: _socket.socket, on_frame: Callable[["Connection", Message], None]
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._in = bytearray()
        self._out: deque[bytes | memoryview] = deque()
        self.pending = 0
        self.closed = False
        self.on_frame = on_frame
        self.on_close: Callable[[], None] | None = None
        self.on_left: Callable[[], None] | None = None
        self.on_room: Callable[[], None] | None = None
        self._reading = True
        self._ending = False
        self._left = False
        sock.setblocking(False)
        loop.watch(self._fd, IN, self._ready)

    def send(self, message: Message) -> None:
        if self.closed or self._ending or self._left:
            return
        frame = pack(message)
        self._out.append(frame)
        self.pending += len(frame)
        if self.pending == len(frame):
            self._flush()

    @property
    def is_idle(self) -> bool:
        """Nothing is half sent or half received."""
        return not self._out and not self._in and self._reading and not self._ending

    def hand_over(self, put: Put) -> int:
        return put(self._fd, IN | CLIENT)

    def end(self) -> None:
        """Send no more once all is sent, and close when the peer does; what it still sends is ignored.

        To close with something unread would take from the peer what it has not read yet.
        """
        self._ending = True
        if not self._out:
            self._finish()

    def _finish(self) -> None:
        try:
            self._sock.shutdown(_socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._reading = True
        self._rewatch()

    def close(self) -> None:
        """Close now; idempotent. Calls `on_close` once."""
        if self.closed:
            return
        self.closed = True
        self._loop.forget(self._fd)
        self._sock.close()
        self._out.clear()
        self.pending = 0
        if self.on_close is not None:
            self.on_close()

    def pause(self) -> None:
        """Read no more until `resume`: the way to hold a peer back."""
        self._reading = False
        self._rewatch()

    def resume(self) -> None:
        if not self._reading and not self.closed:
            self._reading = True
            self._rewatch()
            self._parse()

    def _peer_left(self) -> None:
        """Nobody reads what is sent; what was sent before is in the socket still."""
        if self.on_left is None or self._ending:
            self.close()
        elif not self._left:
            self._left = True
            self._out.clear()
            self.pending = 0
            self._rewatch()
            self.on_left()

    def _rewatch(self) -> None:
        if self.closed:
            return
        if self._left and not self._reading:
            self._loop.forget(self._fd)  # epoll tells of a hang-up whatever it is asked for
        else:
            events = (IN if self._reading else 0) | (OUT if self._out else 0)
            self._loop.watch(self._fd, events, self._ready)

    def _ready(self, events: int) -> None:
        if events & OUT:
            self._flush()
        if events & ~OUT and not self.closed:
            if self._reading or self.on_left is None:
                self._read()
            else:
                self._peer_left()

    def _read(self) -> None:
        try:
            chunk = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self.close()
        elif not self._ending:
            self._in += chunk
            self._parse()

    def _parse(self) -> None:
        while self._reading and not self.closed and len(self._in) >= 4:
            size = _HEAD.unpack_from(self._in)[0]
            if size > MAX_REQUEST_BYTES:
                self.close()
                return
            if len(self._in) < 4 + size:
                return
            body = bytes(self._in[4 : 4 + size])
            del self._in[: 4 + size]
            message = _unpack(body)
            if message is None:
                self.close()
                return
            self.on_frame(self, message)

    def _flush(self) -> None:
        try:
            while self._out:
                sent = self._sock.send(self._out[0])
                self.pending -= sent
                if sent < len(self._out[0]):
                    self._out[0] = memoryview(self._out[0])[sent:]
                else:
                    self._out.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._peer_left()
            return
        self._rewatch()
        if not self._out and self._ending:
            self._finish()
        elif self.on_room is not None:
            self.on_room()


def _unpack(body: bytes) -> Message | None:
    try:
        message = msgpack.unpackb(body)
    except (ValueError, msgpack.UnpackException):
        return None
    return message if isinstance(message, dict) else None


def listen(path: str) -> socket.socket:
    """A listening Unix socket, mode 0600; the path may be longer than sun_path holds."""
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.lexists(path):
            os.unlink(path)
        sock.bind(f"/proc/self/fd/{fd}/{name}")
        os.chmod(path, 0o600)
        sock.listen(64)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(fd)
    return sock


def allowed_peer(sock: _socket.socket) -> bool:
    """Root and the shim's own user may give orders."""
    raw = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    uid = _CREDENTIALS.unpack(raw)[1]
    return uid in (0, os.geteuid())
