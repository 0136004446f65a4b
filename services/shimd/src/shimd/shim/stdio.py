"""The pipes or the pseudo-terminal of one process, seen from its parent."""

import fcntl
import os
import socket
import struct
from collections import deque
from collections.abc import Callable

from shimd.shim import wire
from shimd.shim.handover import Facts, Get, Put
from shimd.shim.loop import IN, OUT, Loop, Timer

STDIN_BOUND_BYTES = 256 << 10
_DRAIN_S = 2.0
_CHUNK_BYTES = 256 << 10
_PIPE_BYTES = 256 << 10
_LAST_BYTES = 1 << 20
_TIOCSWINSZ = 0x5414
_F_SETPIPE_SZ = 1031


class Stdio:
    """`open` before the process starts; `begin` once it has, `drain` once it has ended.

    `on_output(stream, data)` gets what the process writes, `on_drained()` comes exactly once.
    """

    def __init__(
        self,
        loop: Loop,
        on_output: Callable[[int, bytes], None],
        on_drained: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._on_output = on_output
        self._on_drained = on_drained
        self._outputs: dict[int, int] = {}  # fd -> stream
        self._paused = False
        self._stdin_fd = -1
        self._stdin: deque[bytes] = deque()
        self._stdin_pending = 0
        self._stdin_ending = False
        self.waiting: dict[Callable[[], None], None] = {}
        """Who is held back until there is room for input, in order; each is called once."""
        self._drained = False
        self._timer: Timer | None = None
        self._listener: socket.socket | None = None
        self._console_directory = -1
        self.console_path = ""
        """The socket for the runtime to send a terminal to; empty without one."""
        self._tty = False
        self._pty = -1
        self.child: list[int] = []
        self.pipes: frozenset[str] = frozenset()
        """The output pipes as /proc/PID/fd names them; none with a terminal."""

    def open(self, console_path: str, *, tty: bool, stdin: bool) -> None:
        """Make what the process is to be given: pipes, or a socket for the runtime to send a terminal to."""
        self._tty = tty
        if tty:
            self._listener = wire.listen(console_path)
            directory, name = os.path.split(console_path)
            # a runtime's own dialling may know no way to a path longer than sun_path holds
            self._console_directory = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self.console_path = f"/proc/{os.getpid()}/fd/{self._console_directory}/{name}"
            self.child = [os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)] * 3
        else:
            self._make_pipes(stdin=stdin)

    def _make_pipes(self, *, stdin: bool) -> None:
        if stdin:
            child_in, self._stdin_fd = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._stdin_fd, False)
        else:
            child_in = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.child = [child_in]
        for stream in (1, 2):
            read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(read_fd, False)
            try:
                fcntl.fcntl(write_fd, _F_SETPIPE_SZ, _PIPE_BYTES)
            except OSError:
                pass  # the user's limit of pipe pages; the default size works as well
            self._outputs[read_fd] = stream
            self.child.append(write_fd)
        self.pipes = frozenset(f"pipe:[{os.fstat(fd).st_ino}]" for fd in self._outputs)

    def begin(self) -> None:
        """Read, now that the process has its ends.

        Raises:
            OSError: the runtime sent no terminal.
        """
        self._close_child()
        if self._listener is not None:
            self._take_console(self._listener)
        if not self._paused:
            self._watch_outputs()

    @property
    def is_idle(self) -> bool:
        """No input waits, and no output for somebody slow."""
        return not self._paused and not self._stdin

    def hand_over(self, put: Put) -> Facts:
        """For a process that runs."""
        return {
            "outputs": [(put(fd, IN), stream) for fd, stream in self._outputs.items() if fd != self._pty],
            "pty": put(self._pty, IN if self._pty in self._outputs else 0),
            "pty_open": self._pty in self._outputs,
            "stdin": put(self._stdin_fd, 0),
            "tty": self._tty,
        }

    def take_over(self, facts: Facts, get: Get) -> None:
        self._tty = facts["tty"]
        self._outputs = {get(place): stream for place, stream in facts["outputs"]}
        self._pty = get(facts["pty"])
        if facts["pty_open"]:
            self._outputs[self._pty] = 1
        self._stdin_fd = get(facts["stdin"])
        self._watch_outputs()

    def _take_console(self, listener: socket.socket) -> None:
        # The runtime has ended, so its connection and the descriptor in it are queued already.
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(1)
            _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
        self._drop_console()
        if not fds:
            raise OSError(0, "the runtime sent no terminal")
        self._pty = fds[0]
        os.set_inheritable(self._pty, False)
        os.set_blocking(self._pty, False)
        self._stdin_fd = os.dup(self._pty)
        self._outputs[self._pty] = 1

    def _drop_console(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            if os.path.lexists(self.console_path):
                os.unlink(self.console_path)
            os.close(self._console_directory)

    def abandon(self) -> bytes:
        """The process did not start: close all, and return what was written to stderr."""
        self._close_child()
        text = b""
        for fd, stream in self._outputs.items():
            if stream == 2:
                try:
                    text = os.read(fd, 65536)
                except OSError:
                    pass
        self._drained = True
        self._close()
        return text

    def _close_child(self) -> None:
        for fd in set(self.child):
            os.close(fd)
        self.child = []

    def _watch_outputs(self) -> None:
        for fd in self._outputs:
            self._loop.watch(fd, IN, lambda _events, fd=fd: self._read(fd))  # type: ignore[misc]

    def pause(self) -> None:
        """Leave the output in its pipe: back-pressure on the process."""
        if not self._paused:
            self._paused = True
            for fd in self._outputs:
                self._loop.forget(fd)

    def resume(self) -> None:
        if self._paused and not self._drained:
            self._paused = False
            self._watch_outputs()

    def _read(self, fd: int) -> None:
        try:
            chunk = os.read(fd, _CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""  # EIO: nobody has the terminal open any more
        if chunk:
            self._on_output(self._outputs[fd], chunk)
            return
        self._loop.forget(fd)
        del self._outputs[fd]
        if fd != self._pty:
            os.close(fd)
        if not self._outputs and self._timer is not None:
            self._finish()

    def drain(self) -> None:
        """Read on to the end, but not for long: others may have inherited the descriptors."""
        if self._drained:
            return
        if self._outputs:
            self._timer = self._loop.after(_DRAIN_S, self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        if self._drained:
            return
        self._drained = True
        if self._timer is not None:
            self._timer.cancel()
        self._last_words()
        self._close()
        self._on_drained()

    def _last_words(self) -> None:
        """What is in the pipes right now, a bounded amount, when the drain has run out of time."""
        for fd, stream in self._outputs.items():
            left = _LAST_BYTES
            try:
                while left > 0 and (chunk := os.read(fd, left)):  # a terminal gives 4 KiB at once
                    left -= len(chunk)
                    self._on_output(stream, chunk)
            except OSError:
                continue

    def _close(self) -> None:
        self._drop_console()
        for fd in self._outputs:
            self._loop.forget(fd)
            if fd != self._pty:
                os.close(fd)
        self._outputs = {}
        self._close_stdin_fd()
        if self._pty >= 0:
            os.close(self._pty)
            self._pty = -1

    def write_stdin(self, data: bytes) -> bool:
        """Queue input; False means: send no more before there is room, and be among `waiting`."""
        if self._stdin_fd < 0 or self._stdin_ending or not data:
            return True
        self._stdin.append(data)
        self._stdin_pending += len(data)
        self._flush_stdin(0)
        return self.has_stdin_room

    @property
    def has_stdin_room(self) -> bool:
        """What is written now is queued within the bound, or dropped since nobody reads."""
        return self._stdin_pending < STDIN_BOUND_BYTES

    def close_stdin(self) -> None:
        """End of input, after what is queued; on a terminal that is Ctrl-D. Idempotent."""
        if self._stdin_fd < 0 or self._stdin_ending:
            return
        if self._tty:
            self.write_stdin(b"\x04")
            return
        self._stdin_ending = True
        self._flush_stdin(0)

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size; does nothing without a terminal.

        Raises:
            ValueError: the kernel has no terminals of that size.
        """
        if not (0 <= width < 1 << 16 and 0 <= height < 1 << 16):
            raise ValueError(f"a terminal of {width} x {height}")
        if self._pty >= 0:
            fcntl.ioctl(self._pty, _TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def _give_room(self) -> None:
        """One after the other, and only while there is room: they may fill it again."""
        while self.waiting and self.has_stdin_room:
            resume = next(iter(self.waiting))
            del self.waiting[resume]
            resume()

    def _flush_stdin(self, _events: int) -> None:
        try:
            while self._stdin:
                sent = os.write(self._stdin_fd, self._stdin[0])
                self._stdin_pending -= sent
                if sent < len(self._stdin[0]):
                    self._stdin[0] = self._stdin[0][sent:]
                else:
                    self._stdin.popleft()
        except BlockingIOError:
            self._loop.watch(self._stdin_fd, OUT, self._flush_stdin)
        except OSError:
            self._close_stdin_fd()  # nobody reads
        else:
            self._loop.forget(self._stdin_fd)
            if self._stdin_ending:
                self._close_stdin_fd()
        if self.waiting and self.has_stdin_room:
            self._loop.after(0, self._give_room)  # not at once: one of them may be writing right now

    def _close_stdin_fd(self) -> None:
        if self._stdin_fd >= 0:
            self._loop.forget(self._stdin_fd)
            os.close(self._stdin_fd)
            self._stdin_fd = -1
            self._stdin.clear()
            self._stdin_pending = 0
            if self.waiting:
                self._loop.after(0, self._give_room)
