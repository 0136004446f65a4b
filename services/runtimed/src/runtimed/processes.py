"""Processes that are not ours: named by pid and start time, since a pid alone may come to mean another one."""

import os
import signal as signals
from pathlib import Path

import anyio

_START_TIME = 19
"""Index of starttime (field 22 of proc(5)) after the command's closing parenthesis."""
_STATE = 0


def started_ticks(pid: int) -> int:
    """When a process began, in clock ticks since boot; 0 when there is none, or only a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[_STATE] in "ZX" else int(fields[_START_TIME])


def alive(pid: int, ticks: int) -> bool:
    """Whether this very process runs."""
    return pid > 0 and started_ticks(pid) == ticks != 0


async def ended(pid: int, ticks: int) -> None:
    """Wait until this very process has ended."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if alive(pid, ticks):
            await anyio.wait_readable(fd)
    finally:
        os.close(fd)


def send(pid: int, ticks: int, number: int) -> bool:
    """Signal this very process; False when it has ended."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not alive(pid, ticks):
            return False
        signals.pidfd_send_signal(fd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
