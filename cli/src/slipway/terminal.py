"""Our own end of a conversation: raw mode, window size, and reading and writing without blocking the loop."""

import os
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio
import anyio.to_thread

from common.errors import InvalidArgumentError

STDIN = 0
CHUNK_BYTES = 65536
DETACH = b"\x10\x11"
"""Ctrl-P Ctrl-Q, as docker's."""


def require_terminal(*, wants_tty: bool, interactive: bool) -> None:
    """Refuse a terminal session whose input is no terminal.

    Raises:
        InvalidArgumentError: -i and -t are given, and standard input is a pipe or a file.
    """
    if wants_tty and interactive and not sys.stdin.isatty():
        message = "standard input is no terminal: leave out -t"
        raise InvalidArgumentError(message)


def size() -> tuple[int, int]:
    """Columns and rows of our terminal, or docker's guess."""
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        return 80, 24
    return found.columns, found.lines


@contextmanager
def raw(*, wanted: bool) -> Iterator[None]:
    """Every key goes through as it is; the terminal is as before afterwards."""
    if not wanted or not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(STDIN)
    tty.setraw(STDIN)
    try:
        yield
    finally:
        termios.tcsetattr(STDIN, termios.TCSADRAIN, before)


async def typed() -> AsyncIterator[bytes]:
    """What comes on standard input, until its end."""
    while True:
        try:
            await anyio.wait_readable(STDIN)
        except PermissionError:  # a regular file and /dev/null are always readable, and epoll refuses them
            await anyio.lowlevel.checkpoint()
        data = os.read(STDIN, CHUNK_BYTES)
        if not data:
            return
        yield data


async def put(stream: int, data: bytes) -> None:
    """Write all of it to standard output (1) or error (2); a slow reader holds up only this."""
    await anyio.to_thread.run_sync(_put, stream, data)


def _put(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


async def sizes() -> AsyncIterator[tuple[int, int]]:
    """The window's size whenever it changes."""
    with anyio.open_signal_receiver(signal.SIGWINCH) as signals:
        async for _ in signals:
            yield size()
