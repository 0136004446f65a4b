"""System calls that Python 3.11 lacks, by ctypes; no policy. Each raises OSError with errno and path.

Constants are from the kernel's uapi headers: linux/mount.h, linux/sched.h, linux/openat2.h, linux/prctl.h.
"""

import ctypes
import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SHARED = 1 << 20
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MOUNT_ATTR_IDMAP = 0x00100000
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

PR_SET_PDEATHSIG = 1

_TIMEX_BYTES = 512
"""More than struct timex of linux/timex.h takes."""
_TIME_ERROR = 5
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_BPF_INSTRUCTION_BYTES = 8
CAP_SYS_RESOURCE = 24
_CAPABILITY_VERSION = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3."""

# Numbers from asm-generic/unistd.h; the same on x86_64 and aarch64.
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 428, 429, 430, 431, 432
_OPENAT2, _MOUNT_SETATTR, _QUOTACTL_FD = 437, 442, 443

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_libc.sethostname.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
_libc.syncfs.argtypes = (ctypes.c_int,)
_libc.syscall.restype = ctypes.c_long


class MountAttr(ctypes.Structure):
    """struct mount_attr of linux/mount.h."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class CapHeader(ctypes.Structure):
    """struct __user_cap_header_struct of linux/capability.h."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class CapData(ctypes.Structure):
    """struct __user_cap_data_struct of linux/capability.h; a call has two, for 64 capabilities."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


class SockFprog(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class OpenHow(ctypes.Structure):
    """struct open_how of linux/openat2.h."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _check(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def _syscall(number: int, *args: Any, path: str | None = None) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *args), path)


def mount(
    source: str, target: str, fstype: str | None = None, flags: int = 0, data: str | None = None
) -> None:
    _check(_libc.mount(_bytes(source), _bytes(target), _bytes(fstype), flags, _bytes(data)), target)


def umount(target: str, flags: int = 0) -> None:
    _check(_libc.umount2(_bytes(target), flags), target)


def unshare(flags: int) -> None:
    """Leave namespaces; of the calling thread only."""
    _check(_libc.unshare(flags))


def setns(fd: int, flags: int = 0) -> None:
    """Enter a namespace; the calling thread only."""
    _check(_libc.setns(fd, flags))


@contextmanager
def without_capability(number: int) -> Iterator[None]:
    """Not to use a capability below 32, in this thread and in what it starts, for as long as the block runs."""
    header, data = CapHeader(_CAPABILITY_VERSION, 0), (CapData * 2)()
    _check(_libc.capget(ctypes.byref(header), data))
    had = data[0].effective
    data[0].effective = had & ~(1 << number)
    _check(_libc.capset(ctypes.byref(header), data))
    try:
        yield
    finally:
        data[0].effective = had
        _check(_libc.capset(ctypes.byref(header), data))


def prctl(option: int, value: int = 0) -> int:
    return _check(_libc.prctl(option, value, 0, 0, 0))


def set_seccomp(program: bytes) -> None:
    """Have a BPF program decide about the system calls of this thread, and of those that it starts."""
    filter_ = SockFprog(len(program) // _BPF_INSTRUCTION_BYTES, program)
    _check(_libc.prctl(PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(filter_), 0, 0))


def sethostname(name: str) -> None:
    raw = name.encode()
    _check(_libc.sethostname(raw, len(raw)))


def syncfs(fd: int) -> None:
    """Write out the filesystem that the open file is on."""
    _check(_libc.syncfs(fd))


def fsopen(fstype: str) -> int:
    return _syscall(_FSOPEN, _bytes(fstype), FSOPEN_CLOEXEC)


def fsconfig(fd: int, command: int, key: str | None = None, value: str | None = None) -> None:
    _syscall(_FSCONFIG, fd, command, _bytes(key), _bytes(value), 0, path=value)


def fsmount(fd: int, attributes: int = 0) -> int:
    return _syscall(_FSMOUNT, fd, FSMOUNT_CLOEXEC, attributes)


def open_tree(path: str, flags: int = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC, dir_fd: int = AT_FDCWD) -> int:
    return _syscall(_OPEN_TREE, dir_fd, _bytes(path), flags, path=path)


def move_mount(fd: int, target: str) -> None:
    _syscall(_MOVE_MOUNT, fd, b"", AT_FDCWD, _bytes(target), MOVE_MOUNT_F_EMPTY_PATH, path=target)


def mount_setattr(path: str, attr: MountAttr, flags: int = 0, dir_fd: int = AT_FDCWD) -> None:
    size = ctypes.c_size_t(ctypes.sizeof(attr))
    _syscall(_MOUNT_SETATTR, dir_fd, _bytes(path), flags, ctypes.byref(attr), size, path=path)


def has_mount_setattr() -> bool:
    """Whether the kernel knows mount_setattr (Linux 5.12)."""
    try:
        mount_setattr("", MountAttr(), dir_fd=-1)
    except OSError as error:
        return error.errno != errno.ENOSYS
    return True


def has_mapped_layers() -> bool:
    """Whether overlayfs takes layers whose ids are mapped (Linux 5.19); there is no call to ask."""
    return _release() >= (5, 19)


def has_mapped_fuse() -> bool:
    """Whether a FUSE file system may be mounted with ids mapped (Linux 6.12)."""
    return _release() >= (6, 12)


def _release() -> tuple[int, int]:
    major, minor = re.findall(r"\d+", os.uname().release)[:2]
    return int(major), int(minor)


def quotactl_fd(fd: int, command: int, subject: int, argument: Any) -> None:
    """Ask or tell about the quotas of the filesystem that the open file is on (Linux 5.14)."""
    _syscall(_QUOTACTL_FD, fd, command, subject, argument, path=f"/proc/self/fd/{fd}")


def openat2(dir_fd: int, path: str, flags: int, mode: int = 0, resolve: int = RESOLVE_IN_ROOT) -> int:
    """Open a path that cannot lead out of `dir_fd`."""
    how = OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    return _syscall(_OPENAT2, dir_fd, _bytes(path), ctypes.byref(how), size, path=path)


def effective_capabilities() -> frozenset[int]:
    """Numbers of the capabilities that this process has and may pass on (effective and in the bounding set)."""
    with open("/proc/self/status") as status:  # noqa: PTH123 - a kernel file, not a path of ours
        masks = dict(line.split(":", 1) for line in status if line.startswith(("CapEff", "CapBnd")))
    mask = int(masks["CapEff"], 16) & int(masks["CapBnd"], 16)
    return frozenset(bit for bit in range(64) if mask >> bit & 1)


def clock_is_synchronised() -> bool:
    """Whether something keeps the kernel's clock right (adjtimex answers TIME_ERROR otherwise)."""
    timex = (ctypes.c_byte * _TIMEX_BYTES)()  # all zero: only ask
    return int(_libc.adjtimex(timex)) not in (-1, _TIME_ERROR)
