"""The mount namespace that an OCI runtime is called in.

It is the one of the services: what is mounted there at that moment is what a container can be given, and what a
container mounts in a shared volume shows there. On a machine with a hybrid cgroup layout it is a copy of it, made
for the call and gone with it, without the unified hierarchy, beside which crun refuses to work. The shared mounts of
a copy are peers of the originals, so that mounts go both ways through them all the same.
"""

import ctypes
import os
from typing import Any

_CGROUPS = b"/sys/fs/cgroup"
_HYBRID = b"/sys/fs/cgroup/unified"
# linux/sched.h, linux/mount.h
_CLONE_NEWNS = 0x00020000
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2
_UMASK = 0o022
_libc = ctypes.CDLL(None, use_errno=True)  # without argtypes: these arguments fit an int or are bytes


def spawn(argv: list[str], env: dict[str, str], **options: Any) -> int:
    """os.posix_spawnp in the namespace for OCI runtimes; the caller has one thread, and "/" for its directory after.

    With the usual umask: what the runtime makes in a root filesystem, and what a container then makes, is
    for others to enter and to read.

    Raises:
        OSError: it cannot be executed, or the namespace cannot be copied.
    """
    own = os.umask(_UMASK)
    try:
        return _spawn(argv, env, **options)
    finally:
        os.umask(own)


def _spawn(argv: list[str], env: dict[str, str], **options: Any) -> int:
    if not _hybrid():
        return os.posix_spawnp(argv[0], argv, env, **options)
    home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_CLONE_NEWNS))
        try:
            # The removal must stay in the copy: unmounts go to the peers of the mount above.
            _check(_libc.mount(None, _CGROUPS, None, _MS_PRIVATE, None))
            _check(_libc.umount2(_HYBRID, _MNT_DETACH))
            return os.posix_spawnp(argv[0], argv, env, **options)
        finally:
            _check(_libc.setns(home, _CLONE_NEWNS))
    finally:
        os.close(home)


def _hybrid() -> bool:
    try:
        return os.stat(_HYBRID).st_dev != os.stat(_CGROUPS).st_dev
    except FileNotFoundError:
        return False


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
