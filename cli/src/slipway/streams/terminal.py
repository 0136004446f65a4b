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
_CONTROL = "abcdefghijklmnopqrstuvwxyz@[\\]^_"


def detach_keys(text: str) -> bytes:
    """The keys of docker's notation, such as `ctrl-p,ctrl-q` or `ctrl-],x`; none for an empty text.

    Raises:
        InvalidArgumentError: it is no such list.
    """
    keys = b""
    for word in filter(None, text.split(",")):
        name = word.removeprefix("ctrl-")
        if name != word and len(name) == 1 and name in _CONTROL:
            keys += bytes([ord(name.upper()) & 0x1F])
        elif len(word) == 1 and word.isascii() and word.isprintable():
            keys += word.encode()
        else:
            message = (
                f"--detach-keys {text!r}: want keys with commas between, such as ctrl-p,ctrl-q or ctrl-],x"
            )
            raise InvalidArgumentError(message)
    return keys


class DetachKeys:
    """Finds the keys in what is typed, also when each comes by itself; what may be their beginning waits."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def split(self, data: bytes) -> tuple[bytes, bool]:
        """What goes to the process, and whether the keys are complete."""
        passed = bytearray()
        for number in data:
            self._held += bytes([number])
            while self._held and not self._keys.startswith(self._held):
                passed.append(self._held[0])
                self._held = self._held[1:]
            if self._held == self._keys:
                return bytes(passed), True
        return bytes(passed), False


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
    return found.columns or 80, found.lines or 24


@contextmanager
def session(*, typing: bool) -> Iterator[None]:
    """The other side's terminal does the work of ours, which is as before afterwards.

    Its output is not translated a second time; when we type, every key goes through as it is.
    """
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(STDIN)
    if typing:
        tty.setraw(STDIN)
    else:
        plain = termios.tcgetattr(STDIN)
        plain[tty.OFLAG] &= ~termios.OPOST
        termios.tcsetattr(STDIN, termios.TCSADRAIN, plain)
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
