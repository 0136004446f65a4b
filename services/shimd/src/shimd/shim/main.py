"""A shim's life after the fork: its own session, its stdio, its keeper, and the loop of a worker.

What runs here is paid for in every shim, in pages that are no longer shared: so it calls the kernel through os and
goes without files of the io module, enums and ctypes conversions. The front has made the directory and the sockets.
"""

import _socket
import ctypes
import gc
import os

import msgpack

from shimd.shim import handover
from shimd.shim.files import start_time
from shimd.shim.loop import IN, Loop
from shimd.shim.server import Server
from shimd.shim.supervisor import Supervisor

LISTENER_NAME = "shim.sock"
LOG_NAME = "shim.log"
SPEC_NAME = "spawn.msgpack"
PID_NAME = "pid"
_PR_SET_CHILD_SUBREAPER = 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl  # without argtypes: these arguments fit an int
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def become_subreaper(*, on: int) -> None:
    """Inherit the orphans of one's descendants, or do so no longer."""
    if _prctl(_PR_SET_CHILD_SUBREAPER, on, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")


def rename(name: str) -> None:
    """The name that ps shows."""
    fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, name.encode())
    os.close(fd)


def write_identity(path: str, pid: int) -> None:
    """A pid file that also holds the start time: a pid alone may come to mean another process."""
    fd = os.open(path, _WRITE, 0o600)
    os.write(fd, b"%d %s\n" % (pid, start_time(str(pid))))
    os.close(fd)


def serve(parent: _socket.socket, directory: str, spec: bytes, listener: int, log: int) -> None:
    """Be the first worker of a shim, until there is nothing to do or `shutdown`."""
    _Worker(parent, directory, spec, listener, log).run()


def resume(parent: _socket.socket, fds: list[int]) -> None:
    """Be the next worker, likewise."""
    facts, get = handover.take(fds)
    worker = _Worker(parent, facts["directory"], facts["spec"], get(facts["listener"]), get(facts["stderr"]))
    worker.server.take_over(facts, get)
    worker.run()


class _Worker:
    def __init__(self, parent: _socket.socket, directory: str, spec: bytes, listener: int, log: int) -> None:
        gc.enable()  # the zygote has no use for it; what it made is frozen
        os.dup2(log, 2)
        os.close(log)
        self._parent, self._directory, self._spec, self._listener = parent, directory, spec, listener
        self._loop = Loop()
        self.server = Server(
            self._loop, listener, Supervisor(self._loop, directory, msgpack.unpackb(spec), parent)
        )
        self._loop.on_idle = self._rest

    def run(self) -> None:
        self._loop.run()

    def _rest(self) -> None:
        if self.server.is_idle and handover.leave(self._parent, self._describe):
            self._loop.stopped = True

    def _describe(self, put: handover.Put) -> handover.Facts:
        return {
            "directory": self._directory,
            "spec": self._spec,
            "listener": put(self._listener, IN),
            "stderr": put(2, 0),
            **self.server.hand_over(put),
        }
