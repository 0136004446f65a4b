"""Takes from an unpack helper what it does not need, before it reads the first hostile byte.

Numbers are from linux/capability.h and linux/prctl.h.
"""

import ctypes
import os
import resource
import select
import signal

from common.sys import linux

_KEPT = (0, 1, 3, 4, 31)
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP."""
_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP = 24
_LAST_CAPABILITY = 63
_MAX_MEMORY_BYTES = 1 << 30
"""Of addresses: a zstd window of 128 MiB, libraries, and the heaps that threads reserve."""
_MAX_FDS = 64
_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def die_with(parent: int) -> None:
    """Be killed when the parent dies, which the descriptor stands for; it may have died already."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    poll = select.poll()
    poll.register(parent, select.POLLIN)
    if poll.poll(0):
        os._exit(1)


def confine(root: int, *, max_file_bytes: int) -> None:
    """Make the directory `root` all that can be named, and keep only what writing a tree takes.

    Must run before the first thread: namespaces and capabilities belong to threads. `root` is closed. It is a mount
    of its own that hangs nowhere, so that no way leads up from it.
    """
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC)
    os.fchdir(root)
    os.chroot(".")
    os.close(root)
    os.umask(0)
    _limit(max_file_bytes)
    _drop_capabilities()


def _limit(max_file_bytes: int) -> None:
    for kind, limit in (
        (resource.RLIMIT_AS, _MAX_MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, max_file_bytes),
        (resource.RLIMIT_NOFILE, _MAX_FDS),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)  # noqa: PLW2901 - raising one takes CAP_SYS_RESOURCE
        resource.setrlimit(kind, (limit, limit))


def _drop_capabilities() -> None:
    for number in range(_LAST_CAPABILITY + 1):
        if number not in _KEPT:
            _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # numbers past the kernel's last fail, rightly
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    held = _Sets * 2
    sets = held()
    header = _Header(_VERSION_3, 0)
    if _libc.capget(ctypes.byref(header), ctypes.byref(sets)):
        raise OSError(ctypes.get_errno(), "capget")
    mask = sum(1 << number for number in _KEPT)
    sets[0].permitted &= mask
    sets[0].effective = sets[0].permitted
    sets[0].inheritable = 0
    sets[1] = _Sets(0, 0, 0)
    if _libc.capset(ctypes.byref(header), ctypes.byref(sets)):
        raise OSError(ctypes.get_errno(), "capset")
