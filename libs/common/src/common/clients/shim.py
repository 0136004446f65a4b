"""Client of one shim's socket: orders, streams and events (docs/shim-protocol.md).

A ShimClient's requests share a connection and run side by side; every stream and subscription has its own.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Self

import anyio

from common.clients.shimframes import Frames, Message, open_frames, raise_error
from common.clients.shimstream import ShimStream
from common.errors import DeadlineExceededError, UnavailableError

VERSION = 1
CALL_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Started:
    """A container that runs; the times of the runtime's call are for the caller's span."""

    pid: int
    started_at_ns: int
    runtime_begin_ns: int
    runtime_end_ns: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a captured exec or a call of the OCI runtime ended; after a timeout, what it wrote until then."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    timed_out: bool


def _started(reply: Message) -> Started:
    return Started(
        pid=reply["pid"],
        started_at_ns=reply["started_at_ns"],
        runtime_begin_ns=reply["runtime_begin_ns"],
        runtime_end_ns=reply["runtime_end_ns"],
    )


def _result(reply: Message) -> Result:
    return Result(
        exit_code=reply["exit_code"],
        stdout=reply["stdout"],
        stderr=reply["stderr"],
        timed_out=reply["timed_out"],
    )


async def open_stream(socket_path: str, op: str, **fields: Any) -> ShimStream:
    """A connection of its own for what goes on: `subscribe`, `attach`, `exec_stream`; the shim has agreed.

    Raises:
        UnavailableError: nobody listens there.
        DeadlineExceededError: the shim has not answered.
        SlipwayError: what it answered.
    """
    protocol = await open_frames(socket_path)
    stream = ShimStream(protocol)
    try:
        await protocol.send({"v": VERSION, "id": 1, "op": op, **fields})
        with anyio.fail_after(CALL_S + 60):
            reply = await stream.next_message()
    except TimeoutError as exc:
        protocol.close()
        raise DeadlineExceededError(f"shim {socket_path}: no answer to {op}") from exc
    except BaseException:
        protocol.close()
        raise
    if reply is None:
        raise UnavailableError(f"shim {socket_path}: closed the connection")
    if "error" in reply:
        protocol.close()
        raise_error(reply["error"])
    return stream


class ShimClient:
    """One shim's orders; made by `connect`."""

    def __init__(self, path: str, protocol: Frames) -> None:
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
        return cls(socket_path, await open_frames(socket_path))

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
    ) -> Result:
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
        return _result(await self._call("exec", deadline, **fields))

    async def exec_detached(self, exec_id: str, process: bytes, *, traceparent: str = "") -> None:
        """Start an OCI process.json that goes on by itself; its output is dropped. Raises as `exec` does."""
        fields = {"exec_id": exec_id, "process": process, "detach": True, "traceparent": traceparent}
        await self._call("exec", CALL_S, **fields)

    async def exec_stream(
        self, exec_id: str, process: bytes, *, tty: bool, stdin: bool, traceparent: str = ""
    ) -> ShimStream:
        """Run an OCI process.json and talk with it; closing the stream kills it."""
        fields = {"exec_id": exec_id, "process": process, "tty": tty, "stdin": stdin}
        return await open_stream(self._path, "exec_stream", **fields, traceparent=traceparent)

    async def attach(self, *, stdin: bool = False) -> ShimStream:
        """Follow the container's output from now on, and write its input; a slow reader is cut off."""
        return await open_stream(self._path, "attach", stdin=stdin)

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
    ) -> Result:
        """Call the OCI runtime with the shim's root and in its mount namespace: update, pause, ps, features."""
        fields = {"args": args, "stdin": stdin, "deadline_s": deadline_s, "traceparent": traceparent}
        return _result(await self._call("runtime", deadline_s + CALL_S, **fields))

    async def subscribe(self) -> AsyncGenerator[Message, None]:
        """Events, what already happened first; ends when the shim goes.

        `started` {pid, at_ns}, `exit` {the exit record}, `oom` {at_ns}, `exec_started` and `exec_exit` {exec_id, ...}.
        """
        stream = await open_stream(self._path, "subscribe")
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
            raise_error(reply["error"])
        return reply

    def _frame(self, message: Message, _size: int) -> None:
        waiting = self._waiting.get(message.get("id", 0))
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def _lost(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(UnavailableError(f"shim {self._path}: closed the connection"))
