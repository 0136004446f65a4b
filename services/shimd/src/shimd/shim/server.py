"""The shim's socket: orders in, replies and events out (docs/shim-protocol.md)."""

import _socket
import sys
import time
from collections.abc import Callable
from typing import Any

from common.errors import (
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    SlipwayError,
    UnimplementedError,
)
from shimd.shim import runtime as oci
from shimd.shim import wire
from shimd.shim.execs import Capture, Exec, Stream, feed, hold_back
from shimd.shim.handover import Facts, Get, Put
from shimd.shim.loop import IN, Loop
from shimd.shim.supervisor import State, Supervisor
from shimd.shim.wire import Connection, Message

_SLOW_BYTES = 1 << 20
_MAX_CONNECTIONS = 256
_DEPART_S = 5.0
_LOOK_S = 0.02
_MAX_LEFT = 8
"""Clients that went whose input is kept until the container reads it; what more of them sent is dropped."""


class Server:
    """Gives each request to its operation, and every event to whom it concerns."""

    def __init__(self, loop: Loop, listener: int, supervisor: Supervisor) -> None:
        self._loop = loop
        # The C type: the class in socket.py makes enums of its numbers, in pages of every shim.
        self._listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, listener)
        self._listener.setblocking(False)
        self._supervisor = supervisor
        self._connections: set[Connection] = set()
        self._askers: dict[str, Connection] = {}
        """Who waits for the answer of an exec, by its id."""
        self._subscribers: set[Connection] = set()
        self._attached: set[Connection] = set()
        self._left_input: set[Connection] = set()
        """Attachments whose client has gone, and whose input the container has yet to read."""
        self._leaving: list[Callable[[], None]] = []
        self._departing = False
        supervisor.on_event = self._tell
        supervisor.on_output = self._show
        supervisor.on_cleaned = self._leave_if_asked
        self._operations: dict[str, Callable[[Connection, Message], Facts | None]] = {
            "start": self._start,
            "restore": self._restore,
            "state": lambda _connection, _message: self._supervisor.facts(),
            "kill": self._kill,
            "exec": self._exec,
            "exec_stream": self._exec_stream,
            "attach": self._attach,
            "resize": self._resize,
            "close_stdin": self._close_stdin,
            "reopen_log": self._reopen_log,
            "subscribe": self._subscribe,
            "runtime": self._runtime,
            "shutdown": self._shutdown,
        }
        loop.watch(listener, IN, self._accept)

    def _accept(self, _events: int) -> None:
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - as socket.accept does
        except BlockingIOError:
            return
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)
        if len(self._connections) >= _MAX_CONNECTIONS or not wire.allowed_peer(sock):
            sock.close()
            return
        self._welcome(sock)

    def _welcome(self, sock: _socket.socket) -> Connection:
        connection = Connection(self._loop, sock, self._request)
        self._connections.add(connection)
        connection.on_close = lambda: self._left(connection)
        return connection

    @property
    def is_idle(self) -> bool:
        """Nobody is being served."""
        at_rest = all(connection.is_idle for connection in self._connections)
        return at_rest and not self._attached and not self._leaving and self._supervisor.is_idle

    def hand_over(self, put: Put) -> Facts:
        """What another server needs to go on, for the same clients."""
        clients = [(client.hand_over(put), client in self._subscribers) for client in self._connections]
        return {"clients": clients, **self._supervisor.hand_over(put)}

    def take_over(self, facts: Facts, get: Get) -> None:
        for place, subscribed in facts["clients"]:
            sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, get(place))
            connection = self._welcome(sock)
            if subscribed:
                self._follow(connection)
        self._supervisor.take_over(facts, get)

    def _left(self, connection: Connection) -> None:
        """A client went: what it alone waits for is ended."""
        self._connections.discard(connection)
        for exec_id, asker in list(self._askers.items()):
            if asker is connection and exec_id in self._supervisor.execs:
                self._supervisor.execs[exec_id].give_up()

    def _request(self, connection: Connection, message: Message) -> None:
        request_id = message.get("id")
        if self._departing:
            connection.end()
            return
        try:
            if message.get("v") != wire.VERSION:
                raise UnimplementedError(
                    f"protocol version {message.get('v')!r}: this shim speaks {wire.VERSION}"
                )
            operation = self._operations.get(message.get("op", ""))
            if operation is None:
                raise UnimplementedError(f"operation {message.get('op')!r}: this shim has none of that name")
            answer = operation(connection, message)
            if answer is not None:
                connection.send({"id": request_id, "ok": True, **answer})
        except SlipwayError as error:
            _refuse(connection, request_id, error)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
            _refuse(connection, request_id, InvalidArgumentError(f"{message.get('op')}: {exc!r}"))
        except Exception as exc:  # noqa: BLE001 - the peer gets an answer, the shim lives on
            sys.excepthook(*sys.exc_info())
            _refuse(connection, request_id, InternalError(f"{message.get('op')}: {exc}"))

    def _later(self, connection: Connection, message: Message) -> Callable[[Facts | SlipwayError], None]:
        def done(result: Facts | SlipwayError) -> None:
            if isinstance(result, SlipwayError):
                _refuse(connection, message.get("id"), result)
            else:
                connection.send({"id": message.get("id"), "ok": True, **result})

        return done

    def _start(self, connection: Connection, message: Message, images: str = "") -> None:
        deadline_s = wire.seconds(message, "deadline_s", 0)
        self._supervisor.start(
            self._later(connection, message), message.get("traceparent", ""), deadline_s, images
        )

    def _restore(self, connection: Connection, message: Message) -> None:
        self._start(connection, message, str(message["images"]))

    def _kill(self, connection: Connection, message: Message) -> None:
        done = self._later(connection, message)
        self._supervisor.kill(int(message["signal"]), everything=bool(message.get("all")), done=done)

    def _new_exec(self, connection: Connection, message: Message) -> Exec:
        made = self._supervisor.make_exec(str(message["exec_id"]))
        made.traceparent = message.get("traceparent", "")
        later = self._later(connection, message)

        def failed(error: SlipwayError) -> None:
            self._forget(made)
            later(error)

        made.on_fail = failed
        return made

    def _begin(self, made: Exec, message: Message, *, tty: bool, stdin: bool, timeout_s: float) -> None:
        told_start, told_end = made.on_start, made.on_end

        def started() -> None:
            told_start()
            self._tell(
                {"event": "exec_started", "exec_id": made.exec_id, "pid": made.pid, "at_ns": time.time_ns()}
            )

        def ended() -> None:
            self._forget(made)
            told_end()
            facts = {"exit_code": made.code, "timed_out": made.timed_out, "at_ns": time.time_ns()}
            self._tell({"event": "exec_exit", "exec_id": made.exec_id, **facts})

        made.on_start, made.on_end = started, ended
        made.start(wire.blob(message, "process"), tty=tty, stdin=stdin, timeout_s=timeout_s)
        self._supervisor.execs[made.exec_id] = made

    def _forget(self, made: Exec) -> None:
        self._supervisor.execs.pop(made.exec_id, None)
        self._askers.pop(made.exec_id, None)

    def _exec(self, connection: Connection, message: Message) -> None:
        made = self._new_exec(connection, message)
        if message.get("detach"):
            later = self._later(connection, message)
            made.on_start = lambda: later({"pid": made.pid})
            self._begin(made, message, tty=False, stdin=False, timeout_s=0)
            return
        Capture(made, self._later(connection, message))
        self._begin(made, message, tty=False, stdin=False, timeout_s=wire.seconds(message, "timeout_s", 0))
        self._askers[made.exec_id] = connection

    def _exec_stream(self, connection: Connection, message: Message) -> None:
        made = self._new_exec(connection, message)
        later = self._later(connection, message)
        made.on_start = lambda: later({"pid": made.pid})
        Stream(made, connection)
        closed = connection.on_close

        def gone() -> None:
            self._connections.discard(connection)
            if closed is not None:
                closed()

        connection.on_close = gone
        self._begin(
            made, message, tty=bool(message.get("tty")), stdin=bool(message.get("stdin")), timeout_s=0
        )

    def _attach(self, connection: Connection, message: Message) -> Facts:
        supervisor = self._supervisor
        supervisor.check_running()
        stdio, writes = supervisor.stdio, bool(message.get("stdin"))
        once = writes and supervisor.stdin_once

        def frame(_connection: Connection, sent: Message) -> None:
            if writes or "resize" in sent:
                feed(stdio, connection, sent)

        def gone() -> None:
            self._connections.discard(connection)
            self._attached.discard(connection)
            self._left_input.discard(connection)
            stdio.waiting.pop(connection.resume, None)
            if once:
                stdio.close_stdin()

        def left() -> None:
            if len(self._left_input) < _MAX_LEFT:
                self._left_input.add(connection)
            else:
                connection.close()

        connection.on_frame = frame
        connection.on_close = gone
        if writes:
            connection.on_left = left
            if not stdio.has_stdin_room:
                hold_back(stdio, connection)
        self._attached.add(connection)
        return {}

    def _show(self, stream: int, data: bytes) -> None:
        for connection in tuple(self._attached):
            connection.send({"s": stream, "d": data})
            if connection.pending > _SLOW_BYTES:
                connection.close()  # a slow attacher is dropped; the container goes on

    def _resize(self, _connection: Connection, message: Message) -> Facts:
        width, height = int(message["width"]), int(message["height"])
        exec_id = message.get("exec_id", "")
        if exec_id:
            self._supervisor.execs[exec_id].stdio.resize(width, height)
        else:
            self._supervisor.check_running()
            self._supervisor.stdio.resize(width, height)
        return {}

    def _close_stdin(self, _connection: Connection, _message: Message) -> Facts:
        self._supervisor.stdio.close_stdin()
        return {}

    def _reopen_log(self, _connection: Connection, _message: Message) -> Facts:
        self._supervisor.reopen_log()
        return {}

    def _follow(self, connection: Connection) -> None:
        def gone() -> None:
            self._connections.discard(connection)
            self._subscribers.discard(connection)

        connection.on_close = gone
        self._subscribers.add(connection)

    def _subscribe(self, connection: Connection, message: Message) -> None:
        connection.send({"id": message.get("id"), "ok": True})
        if self._supervisor.started_at_ns:
            connection.send(self._supervisor.started_event())
        if self._supervisor.record is not None:
            connection.send({"event": "exit", **self._supervisor.record})
        self._follow(connection)

    def _tell(self, event: Facts) -> None:
        for connection in tuple(self._subscribers):
            connection.send(event)
            if connection.pending > _SLOW_BYTES:
                connection.close()
        if event["event"] == "exit":
            for connection in tuple(self._attached):
                connection.send({"exit": event["exit_code"]})
                connection.end()

    def _runtime(self, connection: Connection, message: Message) -> None:
        later = self._later(connection, message)

        def done(outcome: oci.Outcome) -> None:
            facts: dict[str, Any] = {"exit_code": outcome.code, "timed_out": outcome.expired}
            later({**facts, "stdout": outcome.stdout, "stderr": outcome.stderr})

        self._supervisor.runtime.call(
            [str(argument) for argument in message["args"]],
            done,
            deadline_s=wire.seconds(message, "deadline_s", 60),
            stdin=wire.blob(message, "stdin"),
            traceparent=message.get("traceparent", ""),
        )

    def _shutdown(self, connection: Connection, message: Message) -> None:
        if self._supervisor.busy:
            raise FailedPreconditionError(f"container {self._supervisor.container_id}: is still running")

        def leave() -> None:
            connection.send({"id": message.get("id"), "ok": True})

        self._leaving.append(leave)
        if self._supervisor.cleaned or self._supervisor.state is State.CREATED:
            self._leave_if_asked()

    def _leave_if_asked(self) -> None:
        if self._leaving and not self._departing:
            self._departing = True
            for leave in self._leaving:
                leave()
            self._loop.forget(self._listener.fileno())
            self._listener.close()
            self._depart(round(_DEPART_S / _LOOK_S))

    def _depart(self, looks: int) -> None:
        """Leave once all that was sent is with the clients, or with those who read."""
        if looks and any(connection.pending for connection in self._connections):
            self._loop.after(_LOOK_S, lambda: self._depart(looks - 1))
        else:
            self._loop.stopped = True


def _refuse(connection: Connection, request_id: Any, error: SlipwayError) -> None:
    connection.send({"id": request_id, "error": {"reason": error.reason, "message": error.message}})
