"""The mount namespace that an OCI runtime is called in.

It is that of shimd as it is now, which may be another than the shim was born in: a shim outlives the container image
that brought it, and the runtime's program in it. What is mounted there at that moment is what a container can be
given, and what a container mounts in a shared volume shows there. On a machine with a hybrid cgroup layout it is a copy of it, made
for the call and gone with it, without the unified hierarchy, beside which crun refuses to work. The shared mounts of
a copy are peers of the originals, so that mounts go both ways through them all the same.
"""

import ctypes
import os
import signal
from collections.abc import Sequence
from typing import NoReturn

from shimd.shim import program
from shimd.shim.files import read, start_time

_CGROUPS = b"/sys/fs/cgroup"
_HYBRID = b"/sys/fs/cgroup/unified"
# linux/sched.h, linux/prctl.h, linux/mount.h
_CLONE_NEWNS = 0x00020000
_PR_SET_TIMERSLACK = 29
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2
_UMASK = 0o022
_libc = ctypes.CDLL(None, use_errno=True)  # without argtypes: these arguments fit an int or are bytes
home = ""
"""Path of the file that names the present zygote by pid and start time; the zygote sets it."""


def spawn(
    argv: list[str],
    env: dict[str, str],
    stdio: Sequence[int] = (),
    oom_score: bytes = b"",
    slack_ns: int = 0,
) -> int:
    """Run a command in the namespace for OCI runtimes, and return its pid.

    With the usual umask: what the runtime makes in a root filesystem, and what a container then makes, is
    for others to enter and to read. By fork and not by posix_spawn: what the child prepares before its exec costs
    the shim no page of its own. An `oom_score` and a timer slack are for it and all that comes of it, in place of the shim's.

    Raises:
        OSError: it cannot be executed, or the namespace cannot be copied.
    """
    said_fd, say_fd = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()  # noqa: TID251 - a shim is a zygote's copy: one thread, no gRPC
        if pid == 0:
            if slack_ns:
                _libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(slack_ns))
            _exec(argv, env, stdio, oom_score, say_fd)
    finally:
        os.close(say_fd)
    said = os.read(said_fd, 16)  # nothing, when the exec has closed it
    os.close(said_fd)
    if said:
        os.waitpid(pid, 0)
        raise OSError(int(said), os.strerror(int(said)))
    return pid


def _exec(
    argv: list[str], env: dict[str, str], stdio: Sequence[int], oom_score: bytes, say_fd: int
) -> NoReturn:
    try:
        # What the zygote ignores must not be ignored in what a shim starts.
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for target, fd in enumerate(stdio):
            os.dup2(fd, target)
        os.umask(_UMASK)
        if oom_score:
            _give_up_sparing(oom_score)
        _enter_home()
        if _hybrid():
            _check(_libc.unshare(_CLONE_NEWNS))
            # The removal must stay in the copy: unmounts go to the peers of the mount above.
            _check(_libc.mount(None, _CGROUPS, None, _MS_PRIVATE, None))
            _check(_libc.umount2(_HYBRID, _MNT_DETACH))
        program.execute(argv, env)
    except OSError as exc:
        os.write(say_fd, b"%d" % (exc.errno or 0))
    finally:
        os._exit(127)


def _give_up_sparing(oom_score: bytes) -> None:
    try:
        os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC), oom_score)
    except PermissionError:
        pass  # it is lower than the shim's, without CAP_SYS_RESOURCE


def _enter_home() -> None:
    """Go where shimd is now; stay while nobody is there."""
    try:
        pid, start = read(home).split()
        there = os.open(b"/proc/%s/ns/mnt" % pid, os.O_RDONLY | os.O_CLOEXEC)
        # In this order: a pid that has come to mean another process since would be one of a container, perhaps.
        if start_time(pid.decode()) != start:
            return
    except (OSError, ValueError):
        return
    if not os.path.sameopenfile(there, os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)):
        _check(_libc.setns(there, _CLONE_NEWNS))


def _hybrid() -> bool:
    try:
        return os.stat(_HYBRID).st_dev != os.stat(_CGROUPS).st_dev
    except FileNotFoundError:
        return False


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
