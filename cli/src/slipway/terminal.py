"""This terminal and a stream of a shim: bytes both ways, raw mode, window size."""

import os
import signal
import sys
import termios
import tty as ttys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import anyio

from common.clients.shim import ShimStream
from common.errors import UnavailableError

CHUNK_BYTES = 65536


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Every key goes through, and the terminal is as before afterwards; nothing when stdin is no terminal."""
    if not sys.stdin.isatty():
        yield
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    ttys.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


async def converse(stream: ShimStream, stdin: bool, tty: bool, output: bool = True) -> None:
    """Copy until the stream ends; `output` false throws away what it says."""
    async with anyio.create_task_group() as group:
        if stdin:
            group.start_soon(_send, stream)
        if tty:
            group.start_soon(_follow_size, stream)
        async for number, data in stream:
            if output:
                os.write(2 if number == 2 else 1, data)
        group.cancel_scope.cancel()
    await stream.close()


async def _send(stream: ShimStream) -> None:
    fd = sys.stdin.fileno()
    with suppress(UnavailableError):
        while True:
            with suppress(OSError, ValueError):  # a file cannot be waited for, and needs not be
                await anyio.wait_readable(fd)
            data = os.read(fd, CHUNK_BYTES)
            if not data:
                await stream.close_stdin()
                return
            await stream.write(data)


async def _follow_size(stream: ShimStream) -> None:
    if not sys.stdin.isatty():
        return
    with suppress(UnavailableError), anyio.open_signal_receiver(signal.SIGWINCH) as changes:
        await _send_size(stream)
        async for _ in changes:
            await _send_size(stream)


async def _send_size(stream: ShimStream) -> None:
    size = os.get_terminal_size(sys.stdin.fileno())
    await stream.resize(size.columns, size.lines)
