"""The shim's only loop: epoll, timers, and the reaping of every child."""

import _socket
import heapq
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from shimd.shim.files import read
from shimd.shim.keeper import ACKNOWLEDGED, REPORT

IN = select.EPOLLIN
OUT = select.EPOLLOUT
PRI = select.EPOLLPRI
_IDLE_S = 1.0
Handler = Callable[[int], None]
ExitHandler = Callable[[int, int], None]
"""Called with the wait status and the time in ns at which the process was reaped."""
_MAX_UNCLAIMED = 4096
_UNKNOWN_STATUS = 255 << 8
_LONGEST_WAIT_S = 86400.0
"""epoll takes no more than 24 days at once; a timer may be further away."""
_INHERIT_S = 1.0
"""How often we look whether a process that has ended still waits for its parent, or for us once we are that."""
_MAX_LOOKS = 60
"""Of one whose parent neither waits for it nor ends: turns and not time, since all may stand still together."""


class Timer:
    """A call in the future; `cancel` is idempotent."""

    __slots__ = ("call", "when")

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call: Callable[[], None] | None = call

    def __lt__(self, other: "Timer") -> bool:
        return self.when < other.when

    def cancel(self) -> None:
        self.call = None


class Loop:
    """Calls handlers until stopped; an exception of a handler is printed and goes no further."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._timers: list[Timer] = []
        self.stopped = False
        self.on_idle: Callable[[], None] = lambda: None
        """Called when nothing has happened for a while, and no timer waits."""

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """Call `handler` with the events of a descriptor; again to change either."""
        if fd in self._handlers:
            self._poll.modify(fd, events)
        else:
            self._poll.register(fd, events)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Stop watching; idempotent. To be called before the descriptor is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def after(self, delay_s: float, call: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + delay_s, call)
        heapq.heappush(self._timers, timer)
        return timer

    def run(self) -> None:
        while not self.stopped:
            ready = self._poll.poll(self._timeout(), 64)
            for fd, events in ready:
                handler = self._handlers.get(fd)
                if handler is not None:
                    _guard(handler, events)
            if not ready and not self._timers:
                _guard(self.on_idle)
            self._run_timers()

    def _timeout(self) -> float:
        while self._timers and self._timers[0].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return _IDLE_S
        return min(max(0.0, self._timers[0].when - time.monotonic()), _LONGEST_WAIT_S)

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].when <= now:
            timer = heapq.heappop(self._timers)
            if timer.call is not None:
                _guard(timer.call)


def _guard(call: Callable[..., None], *args: int) -> None:
    try:
        call(*args)
    except Exception:  # noqa: BLE001 - the container must outlive a bug in one handler
        sys.excepthook(*sys.exc_info())


class Reaper:
    """Waits for every child of the worker itself, and hears from the keeper of its children, the orphans among them.

    A child is reaped in one place only, so that a pid stays ours until its handler was called. The status
    of a process that nobody watches yet is kept while `expecting` is above 0: a runtime's detached child may
    end before the runtime has told its pid.
    """

    def __init__(self, loop: Loop, keeper: _socket.socket | None) -> None:
        self._keeper = keeper
        self._handlers: dict[int, ExitHandler] = {}
        self._unclaimed: dict[int, tuple[int, int]] = {}
        self.expecting = 0
        self._read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # The zygote has set a handler for SIGCHLD, without which there is no wake-up.
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        loop.watch(self._read_fd, IN, self._woken)
        if keeper is not None:
            loop.watch(keeper.fileno(), IN, self._told)
        self._loop = loop

    def watch(self, pid: int, handler: ExitHandler) -> None:
        """Call `handler` once when the child has ended, or soon when it has already."""
        found = self._unclaimed.pop(pid, None)
        if found is not None:
            self._loop.after(0, lambda: handler(*found))
        else:
            self._handlers[pid] = handler
            if not self._is_ours(pid):
                self._watch_stranger(pid, handler)

    def waits_only_for(self, pids: set[int]) -> bool:
        """No end is waited for but these, of which the keeper will tell whoever comes after this worker."""
        return self._handlers.keys() == pids and all(map(self._is_ours, pids))

    def _is_ours(self, pid: int) -> bool:
        """A child of the keeper, whose every child is reported, or of this process."""
        parent = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[1:2]
        return parent == [b"%d" % os.getpid()] or (
            self._keeper is not None and parent == [b"%d" % os.getppid()]
        )

    def _watch_stranger(self, pid: int, handler: ExitHandler) -> None:
        """Not our child, or not yet: a runtime may leave a process of its own that ends a moment later.

        The end of a stranger can be seen by its pidfd, its status cannot. As long as it is there all the same nobody has taken
        that, and it comes to us when its parent ends, though a starved machine takes long for it.
        """

        def give_up() -> None:
            if self._handlers.get(pid) is handler:
                del self._handlers[pid]
                handler(_UNKNOWN_STATUS, time.time_ns())

        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._loop.after(_INHERIT_S, give_up)
            return

        def ended(_events: int) -> None:
            self._loop.forget(pidfd)
            look_soon(_MAX_LOOKS)

        def look_soon(left: int) -> None:
            self._loop.after(_INHERIT_S, lambda: look(left))

        def look(left: int) -> None:
            if left and _is_there(pidfd):
                look_soon(left - 1)
            else:
                os.close(pidfd)
                give_up()

        self._loop.watch(pidfd, IN, ended)

    def _woken(self, _events: int) -> None:
        try:
            os.read(self._read_fd, 4096)
        except BlockingIOError:
            pass
        self._collect()

    def _collect(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._ended(pid, status, time.time_ns())
        if not self.expecting:
            self._unclaimed.clear()

    def _told(self, _events: int) -> None:
        assert self._keeper is not None  # noqa: S101 - nobody else tells
        report = self._keeper.recv(REPORT.size)
        if not report:
            self._loop.stopped = True  # a shim ends as one
            return
        self._ended(*REPORT.unpack(report))
        self._keeper.send(ACKNOWLEDGED)

    def _ended(self, pid: int, status: int, at_ns: int) -> None:
        handler = self._handlers.pop(pid, None)
        if handler is not None:
            _guard(handler, status, at_ns)
        elif self.expecting and len(self._unclaimed) < _MAX_UNCLAIMED:
            self._unclaimed[pid] = (status, at_ns)


def _is_there(pidfd: int) -> bool:
    """Whether nobody has reaped it."""
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return False
    return True


def exit_code(status: int) -> tuple[int, int]:
    """Exit code (128 + n after a signal) and signal of a wait status."""
    code = os.waitstatus_to_exitcode(status)
    return (code, 0) if code >= 0 else (128 - code, -code)
