"""Takes from the unpack helper what it does not need, before it reads the first hostile byte.

Numbers are from linux/capability.h and linux/prctl.h.
"""

import ctypes
import os

_KEPT = (0, 1, 3, 4, 31)
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP."""
_VERSION_3 = 0x20080522
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_SIGKILL = 9
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


def die_with_parent() -> None:
    """Be killed when the service is."""
    _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def confine(root: str) -> None:
    """Make `root` all that can be named, and keep only the capabilities that writing a tree takes.

    Must run before the first thread: capabilities belong to threads.
    """
    os.chroot(root)
    os.chdir("/")
    os.umask(0)
    for number in range(_LAST_CAPABILITY + 1):
        if number not in _KEPT:
            _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # numbers past the kernel's last fail, rightly
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
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
