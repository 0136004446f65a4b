"""The process of a shim that stays: its container's parent, which does little, so that few of its pages are its own.

Whenever something happens it forks a worker, a whole shim, and tells it of every child that ends. A worker that has
had nothing to do for a while hands over the descriptors that it holds, and leaves; the next one takes them up. When
a worker leaves without that, because it was told to or has died, the keeper leaves as well.

A client that has only gone is no reason for a worker: when runtimed dies, every shim of the node would fork at the very
moment at which the node's processors are wanted for its next life. The next worker sees it.

On their socket a worker's packet is one byte of events to wait for per descriptor that comes with it, or the
acknowledgement of the report of an end, after which the child is reaped: until then its pid is nobody else's.
"""

import _socket
import ctypes
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable

REPORT = struct.Struct("=iiq")
"""The end of a child: pid, wait status, and the time in ns."""
ACKNOWLEDGED = b"\0"
MAX_FDS = 250  # the kernel's SCM_MAX_FD is 253
CLIENT = 0x80
"""Among the events to wait for: this is a client's socket, whose end alone can wait. No event of poll that is asked for."""
Work = Callable[[_socket.socket, list[int]], None]
"""A worker's life, with its socket to the keeper, and the descriptors that the last one left."""
_ANCILLARY_BYTES = _socket.CMSG_SPACE(4 * MAX_FDS)
_FORK_AGAIN_S = 0.1
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl  # without argtypes: these arguments fit an int


def keep(fds: list[int], work: Work) -> None:
    """Give the descriptors to a first worker, and stay until one has left for good.

    Every child of this process is the keeper's to reap.
    """
    os.setsid()
    if _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        os._exit(1)
    os.dup2(0, 2)  # a shim's life may be longer than that of the front and its output
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    # The zygote has set a handler for SIGCHLD, without which there is no wake-up.
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    while fds:
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        pid = _fork()
        if pid == 0:
            ours.close()
            _be_worker(work, theirs, fds)
        theirs.close()
        for fd in fds:
            os.close(fd)
        events, fds = _attend(ours, pid, woken)
        ours.close()
        os.waitpid(pid, 0)
        if fds:
            _wait(fds, events, woken)
    os.close(woken)
    os.close(wake)


def _fork() -> int:
    while True:
        try:
            return os.fork()  # noqa: TID251 - a shim is a zygote's copy: one thread, no gRPC
        except OSError:
            time.sleep(_FORK_AGAIN_S)  # noqa: TID251 - no memory or no pid now, of which there is no event


def _be_worker(work: Work, keeper: _socket.socket, fds: list[int]) -> None:
    try:
        _prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)  # SIGKILL: a shim ends as one
        work(keeper, fds)
    except BaseException:  # noqa: BLE001 - a worker must never return into the keeper's loop
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _attend(worker: _socket.socket, pid: int, woken: int) -> tuple[bytes, list[int]]:
    """Report to the worker until it leaves; returns the descriptors that it leaves, and what to wait for."""
    poll = select.poll()
    poll.register(worker, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        ended = _ended()
        if ended is None:
            if poll.poll()[0][0] != woken:
                return _receive(worker)
            os.read(woken, 4096)
            continue
        if ended.si_pid == pid:
            return _receive(worker)
        status = ended.si_status << 8 if ended.si_code == os.CLD_EXITED else ended.si_status
        try:
            worker.send(REPORT.pack(ended.si_pid, status, time.time_ns()))
        except (BrokenPipeError, ConnectionResetError):
            return _receive(worker)  # it left at this moment: the next one is told
        packet, fds = _receive(worker)
        if packet != ACKNOWLEDGED:
            return packet, fds
        os.waitpid(ended.si_pid, 0)


def _receive(worker: _socket.socket) -> tuple[bytes, list[int]]:
    try:
        packet, ancillary, _, _ = worker.recvmsg(MAX_FDS, _ANCILLARY_BYTES, _socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        # said once, when it left with a report unread: what it sent is here all the same
        return _receive(worker)
    return packet, memoryview(ancillary[0][2]).cast("i").tolist() if ancillary else []


def _ended() -> os.waitid_result | None:
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None


def _wait(fds: list[int], events: bytes, woken: int) -> None:
    """Sleep until something happens."""
    try:
        os.read(woken, 4096)  # the worker's own end
    except BlockingIOError:
        pass
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    clients: list[int] = []
    for fd, wanted in zip(fds, events, strict=True):
        if wanted:
            poll.register(fd, wanted & ~CLIENT)
        if wanted & CLIENT:
            clients.append(fd)
    while _ended() is None:
        for fd, found in poll.poll():
            if fd not in clients or not found & select.POLLHUP or not _has_gone(fd):
                return
            poll.unregister(fd)


def _has_gone(client: int) -> bool:
    """It has closed, and has left nothing to read."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, client)
    try:
        return not sock.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
    except OSError:
        return True  # it has not read what it was sent
    finally:
        sock.detach()
