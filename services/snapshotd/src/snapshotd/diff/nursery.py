"""The nursery: a small process of one thread that forks unpack helpers, and does nothing else.

snapshotd exec's it with a SOCK_SEQPACKET socket as descriptor 3. Each packet is a JSON object:

    {"id", "job"} and the descriptors of blob, answer and root     a helper begins
    {"id"}                                                         it is killed
    ← {"pid"}                                                      the nursery is ready, or {"error"}
    ← {"id", "status"}                                             a helper has ended (os.waitstatus_to_exitcode)

It reads nothing hostile: a helper gives its answer to snapshotd through a pipe. When snapshotd closes the socket the nursery ends,
and its helpers are killed with it.
"""

import _locale
import gc
import hashlib  # noqa: F401 - as all imports here: in memory before there is nothing to load it from
import json
import os
import select
import signal
import socket
from collections.abc import Sequence
from typing import Any, NoReturn

import zstandard  # noqa: F401 - see above
from isal import igzip

from common.sys import linux, mountinfo
from snapshotd.diff import syscalls, unpack
from snapshotd.diff.confine import bound, die_with
from snapshotd.diff.stream import LayerStream
from snapshotd.diff.tar import TarReader

CONTROL_FD = 3
MAX_PACKET_BYTES = 64 << 10
_FDS = 3
_BLOB_FD, _ANSWER_FD, _ROOT_FD = 0, 1, CONTROL_FD
"""Where a helper has them; it has no other."""
_ALL_FDS = 1 << 20


class _Nursery:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._self = os.pidfd_open(os.getpid())
        self._program = syscalls.compiled(syscalls.UNPACK)
        self._helpers: dict[int, tuple[int, int]] = {}
        """Id and pid by pidfd."""
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def serve(self) -> None:
        """Until snapshotd goes."""
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._helpers:
                    self._bury(fd)
                elif not self._obey():
                    return

    def tell(self, **fields: Any) -> None:
        self._control.send(json.dumps(fields).encode())

    def _obey(self) -> bool:
        packet, fds, _, _ = socket.recv_fds(self._control, MAX_PACKET_BYTES, _FDS, socket.MSG_CMSG_CLOEXEC)
        if not packet:
            return False
        order = json.loads(packet)
        if "job" in order:
            self._begin(order["id"], order["job"], fds)
        else:
            self._kill(order["id"])
        return True

    def _begin(self, number: int, job: dict[str, Any], fds: Sequence[int]) -> None:
        try:
            linux.unshare(linux.CLONE_NEWPID)  # the next child's, and then of no use
            pid = os.fork()
            if pid == 0:
                self._be_helper(job, fds)
        except OSError as exc:
            self.tell(id=number, status=-1, error=f"no process for it: {exc.strerror}")
            return
        finally:
            linux.setns(self._pids, linux.CLONE_NEWPID)
            for fd in fds:
                os.close(fd)
        pidfd = os.pidfd_open(pid)  # nobody else reaps it
        self._helpers[pidfd] = number, pid
        self._poll.register(pidfd, select.POLLIN)

    def _be_helper(self, job: dict[str, Any], fds: Sequence[int]) -> NoReturn:
        status = 1
        try:
            die_with(self._self)
            os.dup2(0, 2)
            for fd, target in zip(fds, (_BLOB_FD, _ANSWER_FD, _ROOT_FD), strict=True):
                os.dup2(fd, target)
            os.closerange(_ROOT_FD + 1, _ALL_FDS)
            left = memoryview(self._work(job))
            while left:
                left = left[os.write(_ANSWER_FD, left) :]
            status = 0
        finally:
            os._exit(status)  # threads may still wait at a queue

    def _work(self, job: dict[str, Any]) -> bytes:
        try:
            unpack.enter(_ROOT_FD, self._program, job["max_bytes"])
        except OSError as exc:
            return unpack.failed("InternalError", f"its helper cannot be confined: {exc}")
        return unpack.answer(_BLOB_FD, job)

    def _kill(self, number: int) -> None:
        for each, pid in self._helpers.values():
            if each == number:
                os.kill(pid, signal.SIGKILL)

    def _bury(self, pidfd: int) -> None:
        number, pid = self._helpers.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        self.tell(id=number, status=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _leave_machine() -> None:
    """Have no network, no IPC, and no mount but the root's in sight; keep nobody from unmounting the others.

    Here and not in each helper: a network namespace for each takes the kernel longer than a small layer.
    """
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    mountinfo.detach(lambda path: path != "/")


def _rehearse() -> None:
    """Read an empty layer: what OpenSSL, the loader and the interpreter find out by it, no helper finds out, nor copies its pages."""
    blob = os.memfd_create("rehearsal")
    os.write(blob, igzip.compress(bytes(1024)))
    os.lseek(blob, 0, os.SEEK_SET)
    stream = LayerStream(blob, "", "sha256", 1 << 20)  # closes it
    stream.start()
    for _ in TarReader(stream.read):
        pass
    stream.finish()


def main() -> None:
    """Serve snapshotd until it goes."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # who stops the services lets snapshotd drain
    # libarchive turns PAX names, which are UTF-8, into the locale's bytes, and normalises them, which would make two names one:
    # what a locale does not have it leaves as it is
    _locale.setlocale(_locale.LC_CTYPE, "C")
    control = socket.socket(fileno=CONTROL_FD)
    control.set_inheritable(False)
    try:
        nursery = _Nursery(control)
        _leave_machine()
        bound(unpack.CAPABILITIES)  # it starts no program, and keeps what it has itself
    except OSError as exc:
        control.send(json.dumps({"error": str(exc)}).encode())
        return
    _rehearse()
    gc.collect()
    gc.freeze()
    try:
        nursery.tell(pid=os.getpid())
        nursery.serve()
    except BrokenPipeError:
        return  # snapshotd has gone
