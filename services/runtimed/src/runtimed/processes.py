"""Processes that are not ours: named by pid and start time, since a pid alone may come to mean another one."""

import os
import signal as signals
from pathlib import Path

import anyio
import anyio.to_thread

from common.observe.log import get_logger

POLL_S = 1.0
"""How often a process is looked at that cannot be waited for."""
_START_TIME = 19
"""Index of starttime (field 22 of proc(5)) after the command's closing parenthesis."""
_STATE = 0
_log = get_logger("processes")


def started_ticks(pid: int) -> int:
    """When a process began, in clock ticks since boot; 0 when there is none, or only a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[_STATE] in "ZX" else int(fields[_START_TIME])


def alive(pid: int, ticks: int) -> bool:
    """Whether this very process runs."""
    return pid > 0 and started_ticks(pid) == ticks != 0


async def ended(pid: int, ticks: int) -> None:
    """Wait until this very process has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError as exc:  # no descriptor is left, which says nothing of the process
        _log.warning("process.polled", pid=pid, error=str(exc))
        while await _polled(pid, ticks):  # noqa: ASYNC110 - what to await is missing
            await anyio.sleep(POLL_S)
        return
    try:
        if alive(pid, ticks):
            await anyio.wait_readable(fd)
    finally:
        os.close(fd)


async def _polled(pid: int, ticks: int) -> bool:
    """Whether it runs, as far as can be told now."""
    try:
        return await anyio.to_thread.run_sync(alive, pid, ticks)
    except OSError:
        return True


def send(pid: int, ticks: int, number: int) -> bool:
    """Signal this very process; False when it has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
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
