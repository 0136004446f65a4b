"""Takes from a helper what it does not need, before it reads the first hostile byte.

Numbers are from linux/capability.h and linux/prctl.h.
"""

import ctypes
import os
import resource
import select
import signal
from collections.abc import Collection, Mapping

from common.sys import linux

_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP = 24
_LAST_CAPABILITY = 63
_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


_HeldSets = _Sets * 2


def die_with(parent: int) -> None:
    """Be killed when the parent dies, which the descriptor stands for; it may have died already."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    poll = select.poll()
    poll.register(parent, select.POLLIN)
    if poll.poll(0):
        os._exit(1)


def bound(capabilities: Collection[int]) -> None:
    """Keep these capabilities at most, in all that is started from here, and never have more by a program's file."""
    for number in range(_LAST_CAPABILITY + 1):
        if number not in capabilities:
            _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # numbers past the kernel's last fail, rightly
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)


def restrict(limits: Mapping[int, int], capabilities: Collection[int], program: bytes) -> None:
    """Lower these limits, keep these capabilities, and have a program of seccomp decide about system calls; after `bound`.

    Must run before the first thread: capabilities belong to threads.

    Raises:
        OSError: the kernel refuses.
    """
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        # raising one takes CAP_SYS_RESOURCE
        lowered = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (lowered, lowered))
    _keep(capabilities)
    linux.set_seccomp(program)


def _keep(capabilities: Collection[int]) -> None:
    sets = _HeldSets()
    header = _Header(_VERSION_3, 0)
    if _libc.capget(ctypes.byref(header), ctypes.byref(sets)):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0].permitted &= sum(1 << number for number in capabilities)
    sets[0].effective = sets[0].permitted
    sets[0].inheritable = 0
    sets[1] = _Sets(0, 0, 0)
    if _libc.capset(ctypes.byref(header), ctypes.byref(sets)):
        raise OSError(ctypes.get_errno(), "capset")
