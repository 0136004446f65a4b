"""Helpers that an attacker has taken over: what the nursery runs in place of the real one."""

import ctypes
import errno
import json
import os
import time
from typing import Any

from snapshotd.diff import nursery, unpack

_DEVICE = {"path": "d", "mode": 0o020666, "uid": 0, "gid": 0, "device": 259, "mtime_ns": 0}
_UNPACKED: dict[str, Any] = {
    "type": "unpacked",
    "opaque": [],
    "devices": [],
    "implied": [""],
    "size_bytes": 0,
    "inodes": 1,
    "compression": "none",
}


def _with(**fields: Any) -> bytes:
    return json.dumps(_UNPACKED | fields).encode()


def _device(**fields: Any) -> bytes:
    return _with(devices=[_DEVICE | fields])


NONSENSE = {
    "nothing of JSON": b"\xff\xfe hello",
    "half an answer": _with()[:-5],
    "two answers": _with() * 2,
    "an answer of no kind": b"{}",
    "a list": b"[]",
    "deep lists": b"[" * 500_000,
    "a field more": _with(more=1),
    "a number for a text": _with(compression=1),
    "an error of no name": json.dumps({"type": "failed", "error": "SystemExit", "text": ""}).encode(),
    "a long text": json.dumps({"type": "failed", "error": "InternalError", "text": "a" * 2000}).encode(),
    "a negative size": _with(size_bytes=-1),
    "a size that no disk has": _with(size_bytes=1 << 63),
    "a path up": _with(opaque=["a/../.."]),
    "an absolute path": _with(implied=["/etc"]),
    "a path with a NUL": _with(implied=["a\0b"]),
    "a path of no bytes": _with(implied=["\u20ac"]),
    "a long path": _with(implied=["a/" * 1500 + "a"]),
    "a device at the root": _device(path=""),
    "a device above": _device(path=".."),
    "a device that is a set-uid file": _device(mode=0o104755),
    "a device of nobody": _device(uid=1 << 32),
}


def _wait() -> bytes:
    time.sleep(1000)
    return b""


def _die() -> bytes:
    os._exit(7)


def _flood() -> bytes:
    while os.write(1, bytes(1 << 16)):
        pass
    return b""


def _leave_terminal_codes() -> bytes:
    return unpack.failed("InvalidArgumentError", "\x1b[2J\nroot#")


FORBIDDEN = (
    "mount", "umount2", "move_mount", "open_tree", "fsopen", "pivot_root", "chroot", "unshare", "setns",
    "execve", "execveat", "clone3", "kill", "tkill", "ptrace", "process_vm_readv", "bpf",
    "perf_event_open", "userfaultfd", "io_uring_setup", "init_module", "finit_module", "keyctl",
    "add_key", "socket", "socketpair", "connect", "bind", "open_by_handle_at", "name_to_handle_at",
    "ioctl", "prctl", "seccomp", "capset", "setuid", "personality", "memfd_create", "pidfd_open",
    "sethostname",
)  # fmt: skip
_numbers: dict[str, int] = {}


def _reach_out() -> bytes:
    """Ask for each of these with zeros, which harm nobody where they are not refused; and for a process."""
    if os.getpid() != 1:
        return unpack.failed("InternalError", "no namespace")
    libc = ctypes.CDLL(None, use_errno=True)
    allowed = []
    for name, number in _numbers.items():
        ctypes.set_errno(0)
        if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != errno.ENOSYS:
            allowed.append(name)
    try:
        if os.fork() == 0:
            os._exit(0)
        allowed.append("fork")
    except OSError as exc:
        assert exc.errno == errno.ENOSYS
    return unpack.failed("InternalError", f"{len(_numbers)} asked, allowed: {allowed}")


def _look_around() -> bytes:
    found = {path: os.listdir(path) for path in ("/", "..", "../../..")}
    return unpack.failed("InternalError", json.dumps(found))


def _give_memory_away() -> bytes:
    try:
        bytes(2 << 30)
    except MemoryError:
        return unpack.failed("InternalError", "bounded")
    return unpack.failed("InternalError", "not bounded")


DEEDS = {
    "wait": _wait,
    "die": _die,
    "flood": _flood,
    "terminal": _leave_terminal_codes,
    "reach out": _reach_out,
    "look around": _look_around,
    "memory": _give_memory_away,
}


def main(name: str) -> None:
    """Be a nursery of such helpers."""

    def answer(blob: int, job: dict[str, Any]) -> bytes:
        return NONSENSE[name] if name in NONSENSE else DEEDS[name]()

    unpack.answer = answer
    seccomp = ctypes.CDLL("libseccomp.so.2")
    _numbers.update({call: seccomp.seccomp_syscall_resolve_name(call.encode()) for call in FORBIDDEN})
    nursery.main()
