"""What a container has left in files: the last lines of its log, and the program that it was to run.

Both can be of a disk or network that is away, and of a hostile image.
"""

import os
import stat
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

from common import crilog
from common.sys import linux
from common.sys.hostroot import HostRoot
from runtimed.why import program

T = TypeVar("T")
MAX_LOG_BYTES = 1 << 16
WITHIN_S = 2.0
"""How long a disk may take."""


async def last_lines(path: str, count: int, host: HostRoot) -> list[str]:
    """The last lines of a log without their times; none when it is no file that can be read."""
    return await _within(partial(_tail, path, count, host), []) if path and count else []


async def program_at(rootfs: str, path: str) -> program.Program | None:
    """The program at a path of a root filesystem; None when there is no such file."""
    return await _within(partial(_program, rootfs, path), None) if rootfs and path else None


async def _within(read: Callable[[], T], otherwise: T) -> T:
    with anyio.move_on_after(WITHIN_S):
        return await anyio.to_thread.run_sync(read, abandon_on_cancel=True)
    return otherwise


def _tail(path: str, count: int, host: HostRoot) -> list[str]:
    try:
        fd = crilog.opened(host.here(path))
    except OSError:
        return []
    try:
        start = max(0, os.fstat(fd).st_size - MAX_LOG_BYTES)
        part = os.pread(fd, MAX_LOG_BYTES, start)
    except OSError:
        return []
    finally:
        os.close(fd)
    found = list(crilog.lines(crilog.records(part, torn=start > 0)))
    return [line.text.decode(errors="replace") for line in found[-count:]]


def _program(rootfs: str, path: str) -> program.Program | None:
    try:
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fd = linux.openat2(root, path.lstrip("/"), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    finally:
        os.close(root)
    try:
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        return program.of_head(os.pread(fd, program.HEAD_BYTES, 0)) if is_file else None
    except OSError:
        return None
    finally:
        os.close(fd)
