"""Calls of the OCI runtime's command: argv, deadline, captured output, and its error as one sentence."""

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from common.errors import UnknownError
from shimd.shim import mountns
from shimd.shim.files import read
from shimd.shim.loop import IN, Loop, Reaper, Timer, exit_code

CAPTURE_BYTES = 8 << 20
_DRAIN_S = 1.0
ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class Outcome:
    """How one call went."""

    __slots__ = ("begin_ns", "code", "end_ns", "expired", "stderr", "stdout")

    def __init__(self) -> None:
        self.code = 0
        self.stdout = b""
        self.stderr = b""
        self.begin_ns = time.time_ns()
        self.end_ns = 0
        self.expired = False


Done = Callable[[Outcome], None]


class Runtime:
    """One container's OCI runtime, with its root directory and global arguments."""

    def __init__(self, loop: Loop, reaper: Reaper, directory: str, config: dict[str, Any]) -> None:
        self._loop = loop
        self._reaper = reaper
        self._directory = directory
        self.sandboxed = bool(config.get("sandboxed"))
        """Its processes are in a kernel of their own, out of reach for the host's signals."""
        self._head = command(config)
        self.calls = 0
        """How many log files were named."""

    def call(
        self,
        args: list[str],
        done: Done,
        *,
        deadline_s: float,
        stdio: list[int] | None = None,
        stdin: bytes = b"",
        traceparent: str = "",
        log_path: str = "",
        oom_score: bytes = b"",
        slack_ns: int = 0,
    ) -> "Call":
        """Run the runtime with `args`; `done` comes exactly once, after its end.

        With `stdio` the three descriptors are its own; else stdin is the given bytes and the rest is captured. The
        timer slack is also for all that comes of it.

        Raises:
            OSError: the binary cannot be executed.
        """
        head = [*self._head, "--log", log_path, "--log-format", "json"] if log_path else self._head
        env = {**ENV, "TRACEPARENT": traceparent} if traceparent else ENV
        return Call(
            self._loop,
            self._reaper,
            [*head, *args],
            env,
            done,
            deadline_s=deadline_s,
            stdio=stdio,
            stdin=stdin,
            oom_score=oom_score,
            slack_ns=slack_ns,
        )

    def log_path(self) -> str:
        """A file name for the runtime's own messages, apart from the container's stderr."""
        self.calls += 1
        return f"{self._directory}/runtime-{self.calls}.log"


def command(config: dict[str, Any]) -> list[str]:
    """The beginning of every call's argv."""
    root = ["--root", config["root"]] if config.get("root") else []
    return [config["binary"], *config.get("args", ()), *root]


class Call:
    """One running call."""

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        argv: list[str],
        env: dict[str, str],
        done: Done,
        *,
        deadline_s: float,
        stdio: list[int] | None,
        stdin: bytes,
        oom_score: bytes,
        slack_ns: int,
    ) -> None:
        self._loop = loop
        self._done: Done | None = done
        self._outcome = Outcome()
        self._captures: dict[int, bytearray] = {}
        self._order: list[bytearray] = []
        self._ended = False
        self._drain: Timer | None = None
        own = stdio is None
        files = self._capture(stdin) if stdio is None else stdio
        try:
            self.pid = mountns.spawn(argv, env, files, oom_score, slack_ns)
        except OSError as exc:
            for fd in self._captures:
                loop.forget(fd)
                os.close(fd)
            raise UnknownError(f"cannot run {argv[0]}: {os.strerror(exc.errno or 0)}") from exc
        finally:
            if own:
                for fd in files:
                    os.close(fd)
        self._timer = loop.after(deadline_s, self.expire)
        reaper.watch(self.pid, self._exited)

    def _capture(self, stdin: bytes) -> list[int]:
        feed = os.memfd_create("stdin", os.MFD_CLOEXEC)
        view = memoryview(stdin)
        while view:
            view = view[os.write(feed, view) :]
        os.lseek(feed, 0, os.SEEK_SET)
        files = [feed]
        for _ in range(2):
            read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(read_fd, False)
            self._captures[read_fd] = bytearray()
            self._order.append(self._captures[read_fd])
            self._loop.watch(read_fd, IN, lambda _events, fd=read_fd: self._read(fd))  # type: ignore[misc]
            files.append(write_fd)
        return files

    def _read(self, fd: int) -> None:
        chunk = os.read(fd, 65536)
        captured = self._captures[fd]
        captured += chunk[: CAPTURE_BYTES - len(captured)]
        if not chunk:
            del self._captures[fd]
            self._loop.forget(fd)
            os.close(fd)
            self._finish_if_whole()

    def expire(self) -> None:
        """Kill the runtime if it has not ended; what it started is the subreaper's to find."""
        if not self._ended:
            self._outcome.expired = True
            os.kill(self.pid, signal.SIGKILL)

    def _exited(self, status: int, at_ns: int) -> None:
        self._ended = True
        self._timer.cancel()
        self._outcome.code = exit_code(status)[0]
        self._outcome.end_ns = at_ns
        if self._captures:
            self._drain = self._loop.after(_DRAIN_S, self._finish)
        self._finish_if_whole()

    def _finish_if_whole(self) -> None:
        if self._ended and not self._captures:
            self._finish()

    def _finish(self) -> None:
        if self._drain is not None:
            self._drain.cancel()
        for fd in self._captures:
            self._loop.forget(fd)
            os.close(fd)
        self._captures = {}
        if self._order:
            self._outcome.stdout, self._outcome.stderr = map(bytes, self._order)
        if self._done is not None:
            done, self._done = self._done, None
            done(self._outcome)


def failure(verb: str, outcome: Outcome, log_path: str, stderr: bytes) -> str:
    """Why a call failed, as one sentence; removes the log file."""
    if outcome.expired:
        _read_log(log_path)
        return f"{verb}: the OCI runtime did not end in time"
    said = _last_message(_read_log(log_path)) or last_line(stderr or outcome.stderr)
    return f"{verb}: {said}" if said else f"{verb}: the OCI runtime ended with status {outcome.code}"


def forget_log(log_path: str) -> None:
    """Remove the log of a call that went well."""
    try:
        os.unlink(log_path)
    except FileNotFoundError:
        pass


def _read_log(path: str) -> bytes:
    text = read(path, 1 << 20)
    forget_log(path)
    return text


def _last_message(text: bytes) -> str:
    for line in reversed(text.splitlines()):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("msg") and entry.get("level") in ("error", "fatal", None):
            return str(entry["msg"]).strip()[:2048]
    return last_line(text) if not text.startswith(b"{") else ""


def last_line(text: bytes) -> str:
    """What a program that failed has written last."""
    lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:2048] if lines else ""


def read_pid(path: str) -> int:
    """The number in a pid file; 0 if there is none."""
    text = read(path).strip()
    return int(text) if text.isdigit() else 0
