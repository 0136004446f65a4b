"""A shim's life after the fork: its own session, its stdio, its loop.

What runs here is paid for in every shim, in pages that are no longer shared: so it calls the kernel through os and
goes without files of the io module, enums and ctypes conversions. The front has made the directory and the sockets.
"""

import ctypes
import gc
import os
from typing import Any

import msgpack

from shimd.shim.loop import Loop
from shimd.shim.server import Server
from shimd.shim.supervisor import Supervisor

LISTENER_NAME = "shim.sock"
LOG_NAME = "shim.log"
SPEC_NAME = "spawn.msgpack"
PID_NAME = "pid"
_PR_SET_CHILD_SUBREAPER = 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl  # without argtypes: these arguments fit an int
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def settle(directory: str, log: int) -> None:
    """Leave the zygote's session and stdio, and say in the directory who this is.

    Raises:
        OSError: with the path, when the directory cannot be written.
    """
    os.setsid()
    become_subreaper(on=1)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(log, 2)
    os.close(null)
    os.close(log)
    rename("slipway-shim")
    write_identity(f"{directory}/{PID_NAME}", os.getpid())


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
    """A pid file that also holds the start time: a pid alone may come to mean another process.

    The start time is field 22 of /proc/PID/stat; both together name a process for as long as the machine is up.
    """
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    stat = os.read(fd, 1024)
    os.close(fd)
    fd = os.open(path, _WRITE, 0o600)
    os.write(fd, b"%d %s\n" % (pid, stat[stat.rfind(b")") + 2 :].split(b" ", 20)[19]))
    os.close(fd)


def serve(directory: str, packed_spec: bytes, listener: int) -> None:
    """Run until `shutdown`."""
    gc.enable()  # the zygote has no use for it; what it made is frozen
    loop = Loop()
    spec: dict[str, Any] = msgpack.unpackb(packed_spec)
    Server(loop, listener, Supervisor(loop, directory, spec))
    loop.run()
