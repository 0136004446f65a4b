"""A shim's life after the fork: its directory, its socket, its loop."""

import os
import signal
import socket
from typing import Any

import msgpack

from common.sys import linux
from shimd.shim import exits, wire
from shimd.shim.loop import Loop
from shimd.shim.server import Server
from shimd.shim.supervisor import Supervisor

_LOG_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


def settle(directory: str, spec: dict[str, Any]) -> socket.socket:
    """Leave the zygote's session and stdio, and make the shim's directory; returns its listening socket.

    Raises:
        OSError: with the path, when the directory cannot be made.
    """
    os.setsid()
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # It leaves by `shutdown` only: whoever stops the services must not stop the containers.
        signal.signal(number, signal.SIG_IGN)
    with open("/proc/self/comm", "w") as comm:
        comm.write("slipway-shim")
    os.makedirs(directory, 0o700, exist_ok=True)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    log = os.open(f"{directory}/shim.log", _LOG_FLAGS, 0o600)
    for target, source in enumerate((null, null, log)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)
    exits.replace(f"{directory}/spawn.msgpack", msgpack.packb(spec), durable=False)
    write_identity(f"{directory}/pid", os.getpid())
    return wire.listen(f"{directory}/shim.sock")


def write_identity(path: str, pid: int) -> None:
    """A pid file that also holds the start time: a pid alone may come to mean another process."""
    exits.replace(path, f"{pid} {start_time(pid)}\n".encode(), durable=False)


def start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat, which with the pid names a process for as long as the machine is up."""
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[19]


def serve(directory: str, spec: dict[str, Any], listener: socket.socket) -> None:
    """Run until `shutdown`."""
    loop = Loop()
    supervisor = Supervisor(loop, directory, spec)
    Server(loop, listener, supervisor)
    loop.run()
