"""Client of one shim's socket: orders, streams and events (docs/shim-protocol.md).

A ShimClient's requests share a connection and run side by side; every stream and subscription has its own.
"""

import asyncio
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import anyio
import msgpack

from common.errors import BY_REASON, DataLossError, DeadlineExceededError, UnavailableError, UnknownError

VERSION = 1
MAX_FRAME_BYTES = 20 << 20
CONNECT_S = 5.0
RETRY_S = 0.01
CALL_S = 30.0
_HEAD = struct.Struct(">I")
_QUEUED_BYTES = 1 << 20
Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Started:
    """A container that runs; the times of the runtime's call are for the caller's span."""

    pid: int
    started_at_ns: int
    runtime_begin_ns: int
    runtime_end_ns: int


@dataclass(frozen=True, kw_only=True)
class ExecResult:
    """A captured exec's end; after a timeout, what it wrote until then."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    timed_out: bool


@dataclass(frozen=True, kw_only=True)
class RuntimeResult:
    """How a call of the OCI runtime ended."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    timed_out: bool


class _Protocol(asyncio.Protocol):
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
        transport.set_write_buffer_limits(high=_QUEUED_BYTES)

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


async def _open(path: str) -> _Protocol:
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
            _, protocol = await loop.create_unix_connection(_Protocol, sock=sock)
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


def _raise(error: Message) -> None:
    cls = BY_REASON.get(error.get("reason", ""), UnknownError)
    raise cls(str(error.get("message", "")))


def _started(reply: Message) -> Started:
    return Started(
        pid=reply["pid"],
        started_at_ns=reply["started_at_ns"],
        runtime_begin_ns=reply["runtime_begin_ns"],
        runtime_end_ns=reply["runtime_end_ns"],
    )


class ShimClient:
    """One shim's orders; made by `connect`."""

    def __init__(self, path: str, protocol: _Protocol) -> None:
        self._path = path
        self._protocol = protocol
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._last_id = 0
        protocol.on_frame = self._frame
        protocol.on_lost = self._lost

    @classmethod
    async def connect(cls, socket_path: str) -> Self:
        """Open the connection.

        Raises:
            UnavailableError: nobody listens there.
        """
        return cls(socket_path, await _open(socket_path))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def start(self, *, traceparent: str = "", timeout_s: float = 120) -> Started:
        """Run the container.

        Raises:
            UnknownError: the runtime refused; the message is its own.
            FailedPreconditionError: it was started before.
        """
        fields = {"traceparent": traceparent, "deadline_s": timeout_s}
        return _started(await self._call("start", timeout_s + CALL_S, **fields))

    async def restore(self, images: str, *, traceparent: str = "", timeout_s: float = 120) -> Started:
        """Run the container from a dump's directory; raises as `start` does."""
        fields = {"images": images, "traceparent": traceparent, "deadline_s": timeout_s}
        return _started(await self._call("restore", timeout_s + CALL_S, **fields))

    async def state(self) -> Message:
        """container_id, state, pid, started_at_ns, exit (the record, or None), execs, log and dropped bytes."""
        return await self._call("state", CALL_S)

    async def kill(self, signal: int, *, all: bool = False) -> None:  # noqa: A002 - the protocol's word
        """Send a signal to init, or to every process of the container.

        Raises:
            FailedPreconditionError: nothing runs.
        """
        await self._call("kill", CALL_S, signal=int(signal), all=all)

    async def exec(
        self, exec_id: str, process: bytes, *, timeout_s: float = 0, traceparent: str = ""
    ) -> ExecResult:
        """Run an OCI process.json and collect its output; 0 s is no timeout.

        A timeout of the process is no error: the result says `timed_out`, and no process of it is left.

        Raises:
            UnknownError: the runtime could not start it.
            DeadlineExceededError: it had not even started in time.
            FailedPreconditionError: the container does not run.
            ResourceExhaustedError: too many execs run.
        """
        fields = {"exec_id": exec_id, "process": process, "timeout_s": timeout_s, "traceparent": traceparent}
        deadline = timeout_s + CALL_S if timeout_s else None
        reply = await self._call("exec", deadline, **fields)
        return ExecResult(
            exit_code=reply["exit_code"],
            stdout=reply["stdout"],
            stderr=reply["stderr"],
            timed_out=reply["timed_out"],
        )

    async def exec_stream(
        self, exec_id: str, process: bytes, *, tty: bool, stdin: bool, traceparent: str = ""
    ) -> "ShimStream":
        """Run an OCI process.json and talk with it; closing the stream kills it."""
        fields = {"exec_id": exec_id, "process": process, "tty": tty, "stdin": stdin}
        return await self._stream("exec_stream", **fields, traceparent=traceparent)

    async def attach(self, *, stdin: bool = False) -> "ShimStream":
        """Follow the container's output from now on, and write its input; a slow reader is cut off."""
        return await self._stream("attach", stdin=stdin)

    async def resize(self, width: int, height: int, *, exec_id: str = "") -> None:
        await self._call("resize", CALL_S, width=width, height=height, exec_id=exec_id)

    async def close_stdin(self) -> None:
        await self._call("close_stdin", CALL_S)

    async def reopen_log(self) -> None:
        """Returns when the new file is in use; the next byte goes there.

        Raises:
            FailedPreconditionError: nothing runs; no file was made.
        """
        await self._call("reopen_log", CALL_S)

    async def runtime(
        self, args: list[str], *, stdin: bytes = b"", deadline_s: float = 60, traceparent: str = ""
    ) -> RuntimeResult:
        """Call the OCI runtime with the shim's root and in its mount namespace: update, pause, ps, features."""
        fields = {"args": args, "stdin": stdin, "deadline_s": deadline_s, "traceparent": traceparent}
        reply = await self._call("runtime", deadline_s + CALL_S, **fields)
        return RuntimeResult(
            exit_code=reply["exit_code"],
            stdout=reply["stdout"],
            stderr=reply["stderr"],
            timed_out=reply["timed_out"],
        )

    async def subscribe(self) -> AsyncIterator[Message]:
        """Events, what already happened first; ends when the shim goes.

        `started` {pid, at_ns}, `exit` {the exit record}, `oom` {at_ns}, `exec_started` and `exec_exit` {exec_id, ...}.
        """
        stream = await self._stream("subscribe")
        try:
            while (message := await stream.next_message()) is not None:
                yield message
        finally:
            await stream.close()

    async def shutdown(self) -> None:
        """End the shim.

        Raises:
            FailedPreconditionError: its container runs.
        """
        await self._call("shutdown", CALL_S)

    async def close(self) -> None:
        self._protocol.close()

    async def _stream(self, op: str, **fields: Any) -> "ShimStream":
        protocol = await _open(self._path)
        stream = ShimStream(protocol)
        try:
            await protocol.send({"v": VERSION, "id": 1, "op": op, **fields})
            with anyio.fail_after(CALL_S + 60):
                reply = await stream.next_message()
        except TimeoutError as exc:
            protocol.close()
            raise DeadlineExceededError(f"shim {self._path}: no answer to {op}") from exc
        except BaseException:
            protocol.close()
            raise
        if reply is None:
            raise UnavailableError(f"shim {self._path}: closed the connection")
        if "error" in reply:
            protocol.close()
            _raise(reply["error"])
        return stream

    async def _call(self, op: str, within_s: float | None, **fields: Any) -> Message:
        self._last_id += 1
        number = self._last_id
        waiting: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            with anyio.fail_after(within_s):
                await self._protocol.send({"v": VERSION, "id": number, "op": op, **fields})
                reply = await waiting
        except TimeoutError as exc:
            raise DeadlineExceededError(f"shim {self._path}: no answer to {op} in {within_s:g} s") from exc
        finally:
            self._waiting.pop(number, None)
        if "error" in reply:
            _raise(reply["error"])
        return reply

    def _frame(self, message: Message, _size: int) -> None:
        waiting = self._waiting.get(message.get("id", 0))
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def _lost(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(UnavailableError(f"shim {self._path}: closed the connection"))


class ShimStream:
    """The bytes of an exec or of an attached container, both ways."""

    def __init__(self, protocol: _Protocol) -> None:
        self._protocol = protocol
        self._queue: deque[tuple[Message, int]] = deque()
        self._queued = 0
        self._paused = False
        self._arrived = asyncio.Event()
        self.exit_code: int | None = None
        """Set when `read` has returned None, unless the connection was cut."""
        protocol.on_frame = self._frame
        protocol.on_lost = self._arrived.set

    def _frame(self, message: Message, size: int) -> None:
        self._queue.append((message, size))
        self._queued += size
        self._arrived.set()
        if self._queued > _QUEUED_BYTES and not self._paused and self._protocol.transport is not None:
            self._paused = True
            self._protocol.transport.pause_reading()

    async def next_message(self) -> Message | None:
        """The next frame as it is; None at the end."""
        while not self._queue:
            if self._protocol.lost:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        message, size = self._queue.popleft()
        self._queued -= size
        if self._paused and self._queued < _QUEUED_BYTES // 2 and self._protocol.transport is not None:
            self._paused = False
            self._protocol.transport.resume_reading()
        return message

    async def read(self) -> tuple[int, bytes] | None:
        """Stream (1 or 2) and bytes; None at the end, when `exit_code` is set."""
        while (message := await self.next_message()) is not None:
            if "exit" in message:
                self.exit_code = message["exit"]
                return None
            if "s" in message:
                return message["s"], message["d"]
            if "error" in message:
                _raise(message["error"])
            raise DataLossError(f"shim: a frame of unknown keys {sorted(message)}")
        return None

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        while (piece := await self.read()) is not None:
            yield piece

    async def write(self, data: bytes) -> None:
        """Send input; waits while the process does not read."""
        for at in range(0, len(data), 65536):
            await self._protocol.send({"s": 0, "d": bytes(data[at : at + 65536])})

    async def close_stdin(self) -> None:
        await self._protocol.send({"close": 0})

    async def resize(self, width: int, height: int) -> None:
        await self._protocol.send({"resize": [width, height]})

    async def close(self) -> None:
        """Close once all input is sent, however long the process does not read it."""
        self._protocol.close()

    def abort(self) -> None:
        """Close now, and forget input that was not sent: it would keep an exec alive that does not read."""
        self._protocol.abort()
