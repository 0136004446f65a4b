"""Extra processes in a container: captured with a timeout, or streamed to one client."""

import os
from collections.abc import Callable
from typing import Any

from common.errors import DeadlineExceededError, FailedPreconditionError, SlipwayError, UnknownError
from shimd.shim import exits
from shimd.shim import runtime as oci
from shimd.shim.execgroup import ExecGroup, slack_ns
from shimd.shim.files import is_ending, read
from shimd.shim.loop import Loop, Reaper, Timer, exit_code
from shimd.shim.sandboxedgroup import SandboxedGroup
from shimd.shim.stdio import Stdio
from shimd.shim.wire import Connection, Message, blob

MAX_EXECS = 64
CAPTURE_BYTES = 16 << 20
_REPLY_BYTES = 19 << 20
_START_S = 60.0
_TELL_S = 2.0
"""How long a runtime may go on when its exec is given up, to tell what it has started."""
_KILL_AGAIN_S = 0.02
_KILL_SELDOM_S = 1.0
_KILL_LOOKS = 60
_HIGH_BYTES = 256 << 10
_LOW_BYTES = 64 << 10


class Exec:
    """One extra process, from the runtime's call to the end of its output.

    `on_start` and `on_end` are for the one who asked; exactly one of `on_fail` and `on_end` comes, once.
    """

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        runtime: oci.Runtime,
        *,
        directory: str,
        container_id: str,
        init_pid: int,
        exec_id: str,
        number: int,
    ) -> None:
        self._loop = loop
        self._reaper = reaper
        self._runtime = runtime
        self._container_id = container_id
        self._init_pid = init_pid
        self.exec_id = exec_id
        self._base = f"{directory}/e{number}"
        self._number = number
        self._call: oci.Call | None = None
        self._log = ""
        self._group: ExecGroup | SandboxedGroup | None = None
        self._timer: Timer | None = None
        self._unwanted = False
        self._again: Timer | None = None
        self.timed_out = False
        self.ended = False
        self.pid = 0
        self.code = 0
        self.stdio = Stdio(loop, self._output, self._drained)
        self.on_output: Callable[[int, bytes], None] = lambda _stream, _data: None
        self.on_start: Callable[[], None] = lambda: None
        self.on_end: Callable[[], None] = lambda: None
        self.on_fail: Callable[[SlipwayError], None] = lambda _error: None
        self.traceparent = ""

    def start(self, process: bytes, *, tty: bool, stdin: bool, timeout_s: float) -> None:
        """Start the process that an OCI process.json describes.

        Raises:
            SlipwayError: the runtime cannot be executed.
        """
        exits.replace(f"{self._base}.json", process, durable=False)
        self._log = self._runtime.log_path()
        self.stdio.open(f"{self._base}.sock", tty=tty, stdin=stdin)
        args = ["exec", "--detach", "--process", f"{self._base}.json", "--pid-file", f"{self._base}.pid"]
        if self._runtime.sandboxed:
            args += ["--internal-pid-file", f"{self._base}.inner"]
        if tty:
            args += ["--console-socket", self.stdio.console_path]
        self._reaper.expecting += 1
        try:
            self._call = self._runtime.call(
                [*args, self._container_id],
                self._called,
                deadline_s=timeout_s + _TELL_S if timeout_s else _START_S,
                stdio=self.stdio.child,
                traceparent=self.traceparent,
                log_path=self._log,
                oom_score=read(f"/proc/{self._init_pid}/oom_score_adj"),  # which crun gives init alone
                slack_ns=0 if self._runtime.sandboxed else slack_ns(self._number),
            )
        except BaseException:
            self._reaper.expecting -= 1
            self.stdio.abandon()
            self._tidy()
            raise
        if timeout_s:
            self._timer = self._loop.after(timeout_s, self.give_up)

    def _called(self, outcome: oci.Outcome) -> None:
        try:
            self.pid = oci.read_pid(f"{self._base}.pid") if outcome.code == 0 else 0
            inner_pid = oci.read_pid(f"{self._base}.inner") if self._runtime.sandboxed else 0
            self._tidy()
            if self.pid == 0:
                self._failed(outcome, inner_pid)
                return
            oci.forget_log(self._log)
            self._group = self._make_group(inner_pid)
            try:
                self.stdio.begin()
            except OSError as exc:
                self._disown(exc)
                return
            self.on_start()
            self._reaper.watch(self.pid, self._exited)
            if self._unwanted:
                self.kill()
        finally:
            self._reaper.expecting -= 1

    def _disown(self, error: OSError) -> None:
        """What runs has no terminal: end it, and say so."""
        if self._timer is not None:
            self._timer.cancel()
        self.stdio.abandon()

        def ended(_status: int, _at_ns: int) -> None:
            self.ended = True
            self.kill()

        self._reaper.watch(self.pid, ended)
        self.kill()
        self.on_fail(UnknownError(f"exec {self.exec_id}: {error.strerror or error}"))

    def _make_group(self, inner_pid: int) -> ExecGroup | SandboxedGroup:
        if inner_pid:
            return SandboxedGroup(self._runtime, self._container_id, self.pid, inner_pid)
        # a kernel of its own has the pipes of all that runs there
        pipes = frozenset[str]() if self._runtime.sandboxed else self.stdio.pipes
        return ExecGroup(self._init_pid, self._number, self.pid, pipes)

    def _failed(self, outcome: oci.Outcome, inner_pid: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        message = oci.failure("exec", outcome, self._log, self.stdio.abandon())
        self.ended = True
        if outcome.expired and (inner_pid or not self._runtime.sandboxed):
            self._group = self._make_group(inner_pid)  # of what the runtime had begun when it was killed
            self.kill()
        if outcome.expired or self.timed_out:
            self.on_fail(DeadlineExceededError(message))
        elif is_ending(self._init_pid):
            self.on_fail(
                FailedPreconditionError(f"container {self._container_id}: is not running: {message}")
            )
        else:
            self.on_fail(UnknownError(message))

    def _output(self, stream: int, data: bytes) -> None:
        self.on_output(stream, data)

    def give_up(self) -> None:
        """End it with all of its descendants: its time is over, or nobody waits for it any more."""
        self.timed_out = True
        self.kill()

    def kill(self) -> None:
        """Kill the process and all of its descendants, and look again until none is left; at once when it is to run yet."""
        if not self._unwanted and not self.pid and self._call is not None:
            self._loop.after(_TELL_S, self._call.expire)
        self._unwanted = True
        if self._again is not None:
            self._again.cancel()
        self._kill(_KILL_AGAIN_S, _KILL_LOOKS)

    def _kill(self, again_s: float, looks: int) -> None:
        """One look, and the next later and later: what hangs in the kernel ends when it can, and costs little until then."""
        if self._group is None:
            return
        if self._group.kill() and looks:
            seldom_s = min(2 * again_s, _KILL_SELDOM_S)
            self._again = self._loop.after(again_s, lambda: self._kill(seldom_s, looks - 1))
        elif self.ended:
            self._release()

    def _exited(self, status: int, _at_ns: int) -> None:
        self.code = exit_code(status)[0]
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
        self.stdio.drain()

    def _drained(self) -> None:
        if self.timed_out:
            self.kill()
        else:
            self._release()
        self.on_end()

    def _release(self) -> None:
        if self._group is not None:
            self._group.release()
            self._group = None

    def _tidy(self) -> None:
        for suffix in ("json", "pid", "inner"):
            try:
                os.unlink(f"{self._base}.{suffix}")
            except FileNotFoundError:
                continue


class Capture:
    """Collects both outputs of an exec, up to a bound; the rest is read and dropped."""

    def __init__(self, made: Exec, reply: Callable[[dict[str, Any]], None]) -> None:
        self._exec = made
        self._reply = reply
        self._buffers = {1: bytearray(), 2: bytearray()}
        made.on_output = self._add
        made.on_end = self._end

    def _add(self, stream: int, data: bytes) -> None:
        buffer = self._buffers[stream]
        buffer += data[: CAPTURE_BYTES - len(buffer)]

    def _end(self) -> None:
        stdout = bytes(self._buffers[1])
        stderr = bytes(self._buffers[2][: _REPLY_BYTES - len(stdout)])
        code, timed_out = self._exec.code, self._exec.timed_out
        self._reply({"exit_code": code, "stdout": stdout, "stderr": stderr, "timed_out": timed_out})


class Stream:
    """Joins an exec and the connection of its client; a slow client holds the process back."""

    def __init__(self, made: Exec, connection: Connection) -> None:
        self._exec = made
        self._connection = connection
        made.on_output = self._output
        made.on_end = self._end
        connection.on_frame = self._frame
        connection.on_room = self._room
        connection.on_close = self._gone

    def _output(self, stream: int, data: bytes) -> None:
        self._connection.send({"s": stream, "d": data})
        if self._connection.pending > _HIGH_BYTES:
            self._exec.stdio.pause()

    def _room(self) -> None:
        if self._connection.pending < _LOW_BYTES:
            self._exec.stdio.resume()

    def _frame(self, connection: Connection, message: Message) -> None:
        feed(self._exec.stdio, connection, message)

    def _gone(self) -> None:
        # The client went: an exec of nobody is ended as a hang-up of its terminal would.
        if not self._exec.ended:
            self._exec.kill()
        self._exec.stdio.resume()

    def _end(self) -> None:
        self._connection.send({"exit": self._exec.code})
        self._connection.end()


def feed(stdio: Stdio, connection: Connection, message: Message) -> None:
    """Do what one frame of a client's stream says: input, its end, or the terminal's size; nonsense ends the stream."""
    try:
        if message.get("s") == 0:
            if not stdio.write_stdin(blob(message, "d")):
                hold_back(stdio, connection)
        elif message.get("close") == 0:
            stdio.close_stdin()
        elif "resize" in message:
            width, height = message["resize"]
            stdio.resize(int(width), int(height))
    except (TypeError, ValueError, OverflowError):
        connection.close()


def hold_back(stdio: Stdio, connection: Connection) -> None:
    """Take no more of a client's frames before there is room for input."""
    connection.pause()
    stdio.waiting[connection.resume] = None
