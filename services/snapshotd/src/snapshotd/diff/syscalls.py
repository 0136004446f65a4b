"""The system calls that a helper is left with, as a program of seccomp; libseccomp knows their numbers.

All others answer ENOSYS, for which the C library has another way where one of ours is meant: mount, ptrace, bpf, sockets,
namespaces, modules, keys, io_uring and what the next kernel brings are not there.
"""

import ctypes
import errno
import os
from collections.abc import Iterable

_RUN = (
    "brk", "mmap", "mprotect", "munmap", "mremap", "madvise", "futex", "set_robust_list", "rseq",
    "sched_yield", "sched_getaffinity", "gettid", "getpid", "exit", "exit_group", "restart_syscall",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "clock_gettime", "clock_nanosleep",
    "nanosleep", "gettimeofday", "getrandom", "poll", "ppoll", "getuid", "geteuid", "getgid", "getegid",
    "uname", "sysinfo",
)  # fmt: skip
_READ = (
    "read", "readv", "pread64", "lseek", "close", "open", "openat", "fcntl", "fstat", "newfstatat",
    "stat", "lstat", "statx", "statfs", "fstatfs", "getdents64", "readlink", "readlinkat", "access",
    "faccessat", "faccessat2", "getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr",
    "flistxattr",
)  # fmt: skip
_WRITE = ("write", "writev", "pwrite64", "ftruncate", "fallocate", "fadvise64")
_MAKE = (
    "mkdir", "mkdirat", "mknod", "mknodat", "symlink", "symlinkat", "link", "linkat", "unlink",
    "unlinkat", "rmdir", "umask", "chown", "lchown", "fchown", "fchownat", "chmod", "fchmod",
    "fchmodat", "fchmodat2", "utimensat", "setxattr", "lsetxattr", "fsetxattr",
)  # fmt: skip
_START = (
    "execve", "arch_prctl", "set_tid_address", "prlimit64", "getppid", "fsync", "fdatasync", "dup",
    "dup2", "copy_file_range", "sendfile",
)  # fmt: skip
"""What a program asks for before its main, and mkfs.erofs besides."""
_ASK = ("socket", "connect", "sendto", "recvfrom", "getsockopt", "ioctl")
"""What a client of a Unix socket needs; Python sets time-outs by ioctl."""
SERVE = frozenset([*_RUN, *_READ, *_WRITE, *_ASK])
UNPACK = frozenset([*_RUN, *_READ, *_WRITE, *_MAKE])
MAKE_IMAGE = frozenset([*_RUN, *_READ, *_WRITE, *_START])

# seccomp.h of libseccomp 2.5; linux/sched.h
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_ATTRIBUTE_BAD_ARCHITECTURE, _MASKED_EQUAL = 2, 7
_CLONE_THREAD = 0x00010000


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


def compiled(names: Iterable[str]) -> bytes:
    """The program for these calls; threads may be started, but no process.

    Raises:
        OSError: libseccomp is not there, or refuses.
    """
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    )
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    context = library.seccomp_init(_ERRNO | errno.ENOSYS)
    try:
        _check(library.seccomp_attr_set(context, _ATTRIBUTE_BAD_ARCHITECTURE, _KILL))
        for name in sorted(names):
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number >= 0:  # others are unknown to this machine
                _check(library.seccomp_rule_add_array(context, _ALLOW, number, 0, None))
        thread = _Comparison(0, _MASKED_EQUAL, _CLONE_THREAD, _CLONE_THREAD)
        clone = library.seccomp_syscall_resolve_name(b"clone")
        _check(library.seccomp_rule_add_array(context, _ALLOW, clone, 1, ctypes.byref(thread)))
        return _exported(library, context)
    finally:
        library.seccomp_release(context)


def _exported(library: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("seccomp")
    try:
        _check(library.seccomp_export_bpf(context, fd))
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, f"libseccomp: {os.strerror(-result)}")
