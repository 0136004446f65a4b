"""Small files by descriptor: the io module would cost each shim the pages of its classes and codecs."""

import os

_PF_EXITING = 4  # linux/sched.h


def read(path: str, limit: int = 65536) -> bytes:
    """The beginning of a file, from one read; empty when it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, limit)
    except OSError:
        return b""  # a process or a cgroup that has gone meanwhile
    finally:
        os.close(fd)


def start_time(pid: str) -> bytes:
    """Field 22 of /proc/PID/stat, which with the pid names a process for as long as the machine is up; empty without one."""
    stat = read(f"/proc/{pid}/stat", 1024)
    return stat[stat.rfind(b")") + 2 :].split(b" ", 20)[19] if stat else b""


def is_ending(pid: int) -> bool:
    """Whether a process has ended, or is being taken down."""
    stat = read(f"/proc/{pid}/stat", 1024)
    fields = stat[stat.rfind(b")") + 2 :].split(b" ", 7)
    return not stat or fields[0] in (b"Z", b"X") or int(fields[6]) & _PF_EXITING != 0
