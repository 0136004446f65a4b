"""The zygote: a small process of one thread that forks shims and pause processes, and does nothing else.

It is exec'ed by the front with a SOCK_SEQPACKET socket as its descriptor 3. Each packet is a msgpack map
{id, op, ...}; each answer {id, ...} or {id, error}. A child that is ready before the request takes it and answers, so
that no request waits for a fork. The zygote ends when the front closes the socket; what it forked lives on.

It is in the front's mount namespace. Its shims begin there, and call the OCI runtime in that of the zygote of the day.
"""

import _socket
import gc
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

import msgpack

from common.sys import linux
from shimd.shim import keeper, mountns
from shimd.shim import main as shim
from shimd.shim import runtime as oci
from shimd.shim.files import read
from shimd.shim.rehearsal import rehearse

CONTROL_FD = 3
MAX_PACKET_BYTES = 128 << 10
_FDS = struct.Struct("2i")

_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_ANCILLARY_BYTES = socket.CMSG_SPACE(8)
_PAUSE_OOM_SCORE = "-998"
# CPython's Objects/obmalloc.c, POOL_SIZE and POOL_OVERHEAD
_POOL_BYTES = 16384
_POOL_HEAD_BYTES = 48
_MAX_PLUGS = 65536
_TAKEN, _GONE = b"t", b"g"
"""What a shim says to the zygote: it has a request, or the front has closed the socket."""
_is_zygote = True
_plugs: list[object] = []


def main() -> None:
    """Serve the front until it goes."""
    control = socket.socket(fileno=CONTROL_FD)
    control.set_inheritable(False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # A shim leaves by `shutdown` only, whoever stops the services; the zygote when its socket closes.
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _on_child)
    packet = control.recv(MAX_PACKET_BYTES)
    if not packet:
        return
    request = msgpack.unpackb(packet)
    try:
        _prepare(request)
    except OSError as exc:
        _answer(control, request, error=f"{exc.strerror}: {exc.filename}" if exc.filename else str(exc))
        return
    _rehearse(f"{request['scratch']}-{os.getpid()}")
    try:
        _answer(control, request, pid=os.getpid())
    except BrokenPipeError:
        return  # the front is gone already
    gc.freeze()
    while _fork(control):
        pass


def _rehearse(directory: str) -> None:
    """Make as many pages as can be the same in all shims; a failure costs memory and nothing else."""
    global _is_zygote, _plugs
    _is_zygote = False
    try:
        shim.become_subreaper(on=1)
        rehearse(directory)
    except OSError as exc:
        sys.stderr.write(f"zygote: rehearsal: {exc}\n")
    finally:
        signal.set_wakeup_fd(-1)
        shim.become_subreaper(on=0)
        _is_zygote = True
    gc.disable()
    gc.collect()
    _plugs = _plug()


def _plug() -> list[object]:
    """Fill the holes that are left in the allocator's pools: else small objects of a shim take one each in many pages."""
    kept: list[object] = []
    for size in range(16, 513, 16):
        for _ in range(_MAX_PLUGS):
            kept.append(object() if size == 16 else 1.5 * len(kept) if size == 32 else bytes(size - 33))
            if id(kept[-1]) % _POOL_BYTES == _POOL_HEAD_BYTES:
                break  # the first block of a new pool
    return kept


def _on_child(_number: int, _frame: object) -> None:
    """Reap in the zygote; in a shim the handler is there for its wake-up only, and the loop reaps."""
    try:
        while _is_zygote and os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _prepare(request: dict[str, Any]) -> None:
    shim.rename("slipway-shim")  # here, and not in each shim, of which it would cost pages; so is this:
    os.dup2(0, 1)
    os.umask(0o022)  # cgroups that the OCI runtime makes are read by users in containers, too
    for directory in request["cgroups"]:
        _join(directory)
    mountns.home = request["home"]
    shim.write_identity(mountns.home, os.getpid())


def _join(directory: str) -> None:
    """Enter a cgroup that is not the service's, so that the end or the limits of the service mean nothing here."""
    try:
        _make_cgroup(directory)
        with open(f"{directory}/cgroup.procs", "w") as procs:
            procs.write(str(os.getpid()))
    except OSError as exc:
        sys.stderr.write(f"zygote: cgroup {directory}: {exc.strerror}\n")


def _make_cgroup(directory: str) -> None:
    """Make a cgroup; a cpuset of version 1 admits nobody before it has the processors and memories of its parent."""
    if os.path.exists(directory):
        return
    parent = os.path.dirname(directory)
    _make_cgroup(parent)
    os.mkdir(directory, 0o755)
    for name in ("cpuset.cpus", "cpuset.mems"):
        if inherited := read(f"{parent}/{name}"):
            with open(f"{directory}/{name}", "wb") as file:
                file.write(inherited)


def _answer(control: socket.socket, request: dict[str, Any], **fields: Any) -> None:
    control.send(msgpack.packb({"id": request["id"], **fields}))


Fds = tuple[int, ...]
Operation = Callable[[socket.socket, _socket.socket, dict[str, Any], Fds], None]


def _fork(control: socket.socket) -> bool:
    """Have a shim ready, until it has a request; False when the front has gone.

    What the zygote writes between two forks is a page of its own for each shim: so all is left to the child.
    """
    global _is_zygote
    taken_read, taken_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _is_zygote = False
        try:
            os.close(taken_read)
            keeper.keep([control.fileno(), taken_write], _work)
        finally:
            os._exit(0)  # it must never return into the zygote's loop
    os.close(taken_write)
    taken = os.read(taken_read, 1)
    os.close(taken_read)
    return taken != _GONE


def _work(parent: _socket.socket, fds: list[int]) -> None:
    """Be a worker of a shim: its first, who takes a request, or one who takes up what another has left."""
    if len(fds) != 2:
        shim.resume(parent, fds)
        return
    control, taken = socket.socket(fileno=fds[0]), fds[1]
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(taken, 0)
    if any(fd == taken for fd, _ in poll.poll()):
        return  # the zygote has died
    packet, ancillary, _, _ = control.recvmsg(MAX_PACKET_BYTES, _ANCILLARY_BYTES, _CLOEXEC)
    os.write(taken, _TAKEN if packet else _GONE)
    os.close(taken)
    if packet:
        _perform(control, parent, packet, _FDS.unpack(ancillary[0][2]) if ancillary else ())


def _perform(control: socket.socket, parent: _socket.socket, packet: bytes, fds: Fds) -> None:
    request = msgpack.unpackb(packet)
    operation = _OPERATIONS.get(request.get("op", ""))
    if operation is None:
        _answer(control, request, error=f"operation {request.get('op')!r}: unknown")
        return
    try:
        operation(control, parent, request, fds)
    except OSError as exc:
        _report(control, request, f"{exc.strerror or exc}: {exc.filename}" if exc.filename else str(exc))
    except Exception as exc:  # noqa: BLE001 - the front gets an answer
        sys.excepthook(*sys.exc_info())
        _report(control, request, repr(exc))


def _report(control: socket.socket, request: dict[str, Any], error: str) -> None:
    try:
        _answer(control, request, error=error)
    except OSError:
        pass  # answered and closed before, or the front is gone


def _spawn(control: socket.socket, parent: _socket.socket, request: dict[str, Any], fds: Fds) -> None:
    listener, log = fds
    directory = request["directory"]
    if not _is_at(log, f"{directory}/{shim.LOG_NAME}"):
        raise OSError(0, "is another shim's by now", directory)
    shim.write_identity(f"{directory}/{shim.PID_NAME}", os.getppid())
    _answer(control, request, pid=os.getppid())
    control.close()
    shim.serve(parent, directory, request["spec"], listener, log)


def _is_at(fd: int, path: str) -> bool:
    """A file that was opened there is there still: its directory was not removed meanwhile, nor made anew."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _pause(control: socket.socket, _parent: _socket.socket, request: dict[str, Any], _fds: Fds) -> None:
    """Fork pid 1 of a new PID namespace; this process ends at once, and the pause lives on its own."""
    directory = request["directory"]
    os.makedirs(directory, 0o700, exist_ok=True)
    if request["userns"]:
        userns = os.open(request["userns"], os.O_RDONLY | os.O_CLOEXEC)
        linux.setns(userns, linux.CLONE_NEWUSER)  # what is made now belongs to it
        os.close(userns)
    linux.unshare(linux.CLONE_NEWPID)
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _be_pause(ready_write)
    os.close(ready_write)
    if os.read(ready_read, 1) != b"1" or os.read(ready_read, 1):
        raise OSError(0, "the pause process died at once")
    shim.write_identity(f"{directory}/pid", pid)
    _answer(control, request, pid=pid)


def _be_pause(ready: int) -> None:
    """Reap orphans until SIGTERM or SIGINT; the end of pid 1 is the end of its namespace."""
    try:
        os.setsid()
        numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
        shim.rename("slipway-pause")
        _spare_from_oom()
        null = os.open("/dev/null", os.O_RDWR)
        for target in range(3):
            os.dup2(null, target)
        os.closerange(3, ready)
        os.closerange(ready + 1, 1024)
        os.write(ready, b"1")
        os.close(ready)
        while signal.sigwait(numbers) == signal.SIGCHLD:
            pass
    finally:
        os._exit(0)


def _spare_from_oom() -> None:
    """A pod's pause is the last of it to be killed for memory; as far as this node may lower a score."""
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write(_PAUSE_OOM_SCORE)
    except PermissionError:
        pass  # without CAP_SYS_RESOURCE


def _bury(control: socket.socket, _parent: _socket.socket, request: dict[str, Any], _fds: Fds) -> None:
    """Delete the container of a shim that died: kills what runs and removes what the runtime keeps."""
    argv = [*oci.command(request["spec"]["runtime"]), "delete", "--force", request["spec"]["container_id"]]
    said = os.memfd_create("said", os.MFD_CLOEXEC)
    try:
        pid = mountns.spawn(argv, oci.ENV, [0, said, said])
    except OSError as exc:
        raise OSError(exc.errno, f"cannot run: {exc.strerror}", argv[0]) from exc
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        _answer(control, request)
        return
    why = oci.last_line(os.pread(said, 4096, 0)) or f"status {code}"
    _answer(control, request, error=f"delete: the OCI runtime failed: {why}")


_OPERATIONS: dict[str, Operation] = {"spawn": _spawn, "pause": _pause, "bury": _bury}
