"""Frames of msgpack over a Unix socket, as shims speak them (docs/shim-protocol.md)."""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgpack

from common.errors import BY_REASON, DeadlineExceededError, UnavailableError, UnknownError

MAX_FRAME_BYTES = 20 << 20
QUEUED_BYTES = 1 << 20
"""How much waits in each direction before the sender is held back."""
CONNECT_S = 5.0
RETRY_S = 0.01
_HEAD = struct.Struct(">I")
Message = dict[str, Any]


class Frames(asyncio.Protocol):
    """Cuts bytes into frames; callbacks only, so that no task has to be owned."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.transport: asyncio.Transport | None = None
        self.on_frame: Callable[[Message, int], None] = lambda _message, _size: None
        self.on_lost: Callable[[], None] = lambda: None
        self.lost = False
        self._room = asyncio.Event()
        self._room.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a Unix stream socket
        self.transport = transport
        transport.set_write_buffer_limits(high=QUEUED_BYTES)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 4:
            size = _HEAD.unpack_from(self._buffer)[0]
            if size > MAX_FRAME_BYTES:
                self.close()
                return
            if len(self._buffer) < 4 + size:
                return
            with memoryview(self._buffer) as view, view[4 : 4 + size] as body:
                message = msgpack.unpackb(body)
            del self._buffer[: 4 + size]
            self.on_frame(message, size)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._room.set()
        self.on_lost()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    async def send(self, message: Message) -> None:
        """Queue a frame, and wait while the peer is behind.

        Raises:
            UnavailableError: the connection is gone.
        """
        await self._room.wait()
        if self.lost or self.transport is None or self.transport.is_closing():
            raise UnavailableError("shim: the connection is closed")
        body: bytes = msgpack.packb(message)
        self.transport.write(_HEAD.pack(len(body)) + body)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort() if self.lost else self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


async def open_frames(path: str) -> Frames:
    """Connect to a shim's socket.

    Raises:
        UnavailableError: nobody listens there.
        DeadlineExceededError: it does not accept.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    # Through a descriptor of its directory: the path may be longer than sun_path holds.
    directory = -1
    try:
        directory = os.open(Path(path).parent, os.O_PATH | os.O_DIRECTORY)
        loop = asyncio.get_running_loop()
        with anyio.fail_after(CONNECT_S):
            address = f"/proc/self/fd/{directory}/{Path(path).name}"
            # Its queue may be full. asyncio's own connect would go on as if a Unix socket connected later.
            while (error := sock.connect_ex(address)) == errno.EAGAIN:  # noqa: ASYNC110 - nothing tells of room
                await anyio.sleep(RETRY_S)
            if error:
                raise OSError(error, os.strerror(error))
            _, protocol = await loop.create_unix_connection(Frames, sock=sock)
    except TimeoutError as exc:
        sock.close()
        raise DeadlineExceededError(f"shim {path}: does not accept") from exc
    except OSError as exc:
        sock.close()
        raise UnavailableError(f"shim {path}: {exc.strerror or exc}") from exc
    except BaseException:
        sock.close()
        raise
    finally:
        if directory >= 0:
            os.close(directory)
    return protocol


def raise_error(error: Message) -> None:
    """Raise what a shim answered in place of a result."""
    cls = BY_REASON.get(error.get("reason", ""), UnknownError)
    raise cls(str(error.get("message", "")))
