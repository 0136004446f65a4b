"""One container's supervisor: starts it, watches it, records its end, then serves until told to leave.

created ── start ──> starting ──> running ── init ends ──> draining ──> exited
                        │ failed                                (record on disk, then told)
                        └──> failed
"""

import _socket
import os
import signal
import sys
import time
from collections.abc import Callable
from enum import StrEnum

from common.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    ResourceExhaustedError,
    SlipwayError,
    UnknownError,
)
from shimd.shim import cgroup, exits, pids
from shimd.shim import runtime as oci
from shimd.shim.crilog import CriLog
from shimd.shim.execs import MAX_EXECS, Exec
from shimd.shim.handover import Facts, Get, Put
from shimd.shim.loop import Loop, Reaper, exit_code
from shimd.shim.oom import OomWatch
from shimd.shim.stdio import Stdio

START_S = 120.0
_DELETE_S = 30.0
_DELETE_TRIES = 5
_DELETE_AGAIN_S = 0.5
Done = Callable[[Facts | SlipwayError], None]


class State(StrEnum):
    """Where the container is, as the shim knows it."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    EXITED = "exited"
    FAILED = "failed"


class Supervisor:
    """Owns the container's processes, output and exit record; the server speaks for it."""

    def __init__(self, loop: Loop, directory: str, spec: Facts, keeper: _socket.socket | None = None) -> None:
        self._loop = loop
        self._directory = directory
        self._spec = spec
        self.container_id = str(spec["container_id"])
        self.stdin_once = bool(spec.get("stdin_once"))
        self._reaper = Reaper(loop, keeper)
        self.runtime = oci.Runtime(loop, self._reaper, directory, spec["runtime"])
        self.log = CriLog(spec.get("log_path", ""), spec.get("max_line_bytes", 0))
        self.state = State.CREATED
        self.pid = 0
        self.started_at_ns = 0
        self.record: Facts | None = None
        self.stdio = Stdio(loop, self._output, self._drained)
        self.execs: dict[str, Exec] = {}
        self._exec_number = 0
        self._status = 0
        self._finished_at_ns = 0
        self._oom = OomWatch(loop, spec.get("memory_cgroup_path", ""), self._oom_killed)
        self._memory: Facts = {}
        self._pids: Facts = {}
        self._start_done: Done | None = None
        self._start_log = ""
        self.cleaned = False
        self.on_event: Callable[[Facts], None] = lambda _event: None
        self.on_output: Callable[[int, bytes], None] = lambda _stream, _data: None
        self.on_cleaned: Callable[[], None] = lambda: None

    def start(self, done: Done, traceparent: str, deadline_s: float, images: str = "") -> None:
        """Run the container; the reply says when the runtime began and ended, for the caller's span.

        With `images`, the directory of a dump, its processes go on where they were.

        Raises:
            SlipwayError: it was started before, or its runtime or log file is not usable.
        """
        if self.state is not State.CREATED:
            raise FailedPreconditionError(f"container {self.container_id}: is {self.state}, cannot start")
        self._open_log()
        spec = self._spec
        self.stdio.open(f"{self._directory}/c.sock", tty=bool(spec.get("tty")), stdin=bool(spec.get("stdin")))
        self._start_log = self.runtime.log_path()
        pid_file = f"{self._directory}/init.pid"
        verb = ["restore", "--image-path", images, "--work-path", images] if images else ["run"]
        args = [*verb, "--detach", "--pid-file", pid_file, "--bundle", spec["bundle_path"]]
        if self.stdio.console_path:
            args += ["--console-socket", self.stdio.console_path]
        self._reaper.expecting += 1
        try:
            self.runtime.call(
                [*args, self.container_id],
                self._called,
                deadline_s=deadline_s or START_S,
                stdio=self.stdio.child,
                traceparent=traceparent,
                log_path=self._start_log,
            )
        except SlipwayError:
            self._reaper.expecting -= 1
            self._abandon()
            self.cleaned = True  # nothing was made
            raise
        self.state = State.STARTING
        self._start_done = done

    def _called(self, outcome: oci.Outcome) -> None:
        done, self._start_done = self._start_done, None
        assert done is not None  # noqa: S101 - set by start
        pid = oci.read_pid(f"{self._directory}/init.pid") if outcome.code == 0 else 0
        try:
            if pid:
                self.stdio.begin()
        except OSError as exc:
            os.kill(pid, signal.SIGKILL)
            self._reaper.watch(pid, lambda _status, _at: None)
            outcome.stderr, pid = str(exc).encode(), 0
        if not pid:
            self._reaper.expecting -= 1
            message = oci.failure("start", outcome, self._start_log, self._abandon())
            self._delete(1)
            done(UnknownError(f"container {self.container_id}: {message}"))
            return
        oci.forget_log(self._start_log)
        self.pid = pid
        self.started_at_ns = outcome.end_ns
        self.state = State.RUNNING
        self._oom.open()
        span = {"runtime_begin_ns": outcome.begin_ns, "runtime_end_ns": outcome.end_ns}
        done({"pid": pid, "started_at_ns": self.started_at_ns, **span})
        self.on_event(self.started_event())
        self._reaper.watch(pid, self._ended)
        self._reaper.expecting -= 1

    def _abandon(self) -> bytes:
        self.state = State.FAILED
        said = self.stdio.abandon()
        self._oom.close()
        self.log.close()
        return said

    def started_event(self) -> Facts:
        return {"event": "started", "pid": self.pid, "at_ns": self.started_at_ns}

    def _output(self, stream: int, data: bytes) -> None:
        self.log.write(stream, data)
        self.on_output(stream, data)

    def _oom_killed(self) -> None:
        self.on_event({"event": "oom", "at_ns": time.time_ns()})

    def _ended(self, status: int, at_ns: int) -> None:
        self.state = State.DRAINING
        self._status = status
        self._finished_at_ns = at_ns
        # now, and not when all output is here: systemd removes the cgroup meanwhile
        self._memory = self._oom.memory()
        self._pids = pids.limit(self._spec.get("pids_cgroup_path", ""))
        self.stdio.drain()

    def _drained(self) -> None:
        self.log.flush()
        code, number = exit_code(self._status)
        ooms = self._oom.delta()
        self.record = {
            "container_id": self.container_id,
            "pid": self.pid,
            "exit_code": code,
            "signal": number,
            "started_at_ns": self.started_at_ns,
            "finished_at_ns": self._finished_at_ns,
            # a shell, too, ends so when its command was the one that was killed
            "oom_killed": bool(ooms) and code == 128 + signal.SIGKILL,
            "log_bytes": self.log.written_bytes,
            "dropped_bytes": self.log.dropped_bytes,
            "memory": self._memory,
            "pids": self._pids,
        }
        self.log.close()
        self._oom.close()
        try:
            exits.write(self._spec.get("record_dir", ""), self.record)
        except OSError:
            # A full disk must not hide the exit from those who ask now.
            sys.excepthook(*sys.exc_info())
        self.state = State.EXITED
        self.on_event({"event": "exit", **self.record})
        self._delete(_DELETE_TRIES)

    def _delete(self, tries: int) -> None:
        def deleted(outcome: oci.Outcome) -> None:
            if outcome.code and tries > 1:
                self._loop.after(_DELETE_AGAIN_S, lambda: self._delete(tries - 1))
                return
            self.cleaned = True
            self.on_cleaned()

        try:
            self.runtime.call(["delete", "--force", self.container_id], deleted, deadline_s=_DELETE_S)
        except (OSError, SlipwayError):
            self.cleaned = True
            self.on_cleaned()

    def check_running(self) -> None:
        """For what wants a container that runs.

        Raises:
            FailedPreconditionError: it does not.
        """
        if self.state is not State.RUNNING:
            raise FailedPreconditionError(f"container {self.container_id}: is not running")

    def kill(self, number: int, *, everything: bool, done: Done) -> None:
        """Send a signal to init, or to every process of the container.

        Raises:
            FailedPreconditionError: nothing runs.
            InvalidArgumentError: there is no such signal.
        """
        if not 0 < number < 65:
            raise InvalidArgumentError(f"signal {number}: no such signal")
        self.check_running()
        if self.runtime.sandboxed:
            args = ["kill", *(["--all"] if everything else []), self.container_id, str(number)]
            self.runtime.call(args, lambda outcome: done(_killed(outcome)), deadline_s=10)
            return
        cgroup.thaw(self.pid)
        os.kill(self.pid, number)  # our own child, not reaped yet: the pid is its own
        if everything:
            cgroup.kill_all(cgroup.container_cgroup(self.pid), number, {self.pid})
        done({})

    def make_exec(self, exec_id: str) -> Exec:
        """A new exec, to be started by the caller.

        Raises:
            SlipwayError: nothing runs, the id is in use, or there are too many.
        """
        self.check_running()
        if exec_id in self.execs:
            raise FailedPreconditionError(f"exec {exec_id}: is running already")
        if len(self.execs) >= MAX_EXECS:
            raise ResourceExhaustedError(f"container {self.container_id}: {MAX_EXECS} execs run already")
        self._exec_number += 1
        return Exec(
            self._loop,
            self._reaper,
            self.runtime,
            directory=self._directory,
            container_id=self.container_id,
            init_pid=self.pid,
            exec_id=exec_id,
            number=self._exec_number,
        )

    def facts(self) -> Facts:
        """What `state` answers."""
        return {
            "container_id": self.container_id,
            "state": str(self.state),
            "pid": self.pid,
            "started_at_ns": self.started_at_ns,
            "exit": self.record,
            "execs": list(self.execs),
            "log_bytes": self.log.written_bytes,
            "dropped_bytes": self.log.dropped_bytes,
        }

    def reopen_log(self) -> None:
        """Write on in a new file at the log path.

        Raises:
            SlipwayError: nothing runs (no file is made then), or the file cannot be made.
        """
        self.check_running()
        self._open_log()

    def _open_log(self) -> None:
        try:
            self.log.reopen()
        except OSError as exc:
            raise UnknownError(
                f"container {self.container_id}: log file {self.log.path}: {exc.strerror}"
            ) from exc

    @property
    def is_idle(self) -> bool:
        """Nothing goes on but the container itself, and nothing of it is held here."""
        if self.state is State.RUNNING:
            at_rest = self.stdio.is_idle and not self.execs
            return at_rest and self._reaper.waits_only_for({self.pid})
        return not self.busy and self._reaper.waits_only_for(set())

    def hand_over(self, put: Put) -> Facts:
        """What another needs to go on from here, while this one is idle."""
        running = self.state is State.RUNNING
        return {
            "state": str(self.state),
            "pid": self.pid,
            "started_at_ns": self.started_at_ns,
            "record": self.record,
            "exec_number": self._exec_number,
            "calls": self.runtime.calls,
            "cleaned": self.cleaned,
            "log": self.log.hand_over(put),
            "stdio": self.stdio.hand_over(put) if running else None,
            "oom": self._oom.hand_over(put) if running else None,
        }

    def take_over(self, facts: Facts, get: Get) -> None:
        """Go on where another has stopped."""
        self.state = State(facts["state"])
        self.pid = facts["pid"]
        self.started_at_ns = facts["started_at_ns"]
        self.record = facts["record"]
        self._exec_number = facts["exec_number"]
        self.runtime.calls = facts["calls"]
        self.cleaned = facts["cleaned"]
        self.log.take_over(facts["log"], get)
        if self.state is State.RUNNING:
            self.stdio.take_over(facts["stdio"], get)
            self._oom.take_over(facts["oom"], get)
            self._reaper.watch(self.pid, self._ended)

    @property
    def busy(self) -> bool:
        """A container runs, or is about to."""
        return self.state in (State.STARTING, State.RUNNING, State.DRAINING)


def _killed(outcome: oci.Outcome) -> Facts | SlipwayError:
    return UnknownError(oci.failure("kill", outcome, "", b"")) if outcome.code else {}
