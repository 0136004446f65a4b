"""Questions to whoever sits at the terminal. Blocking."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getpass

from common.errors import InvalidArgumentError


@contextmanager
def answering() -> Iterator[None]:
    """Let Ctrl-C end what reads or writes meanwhile: asyncio keeps the first for who awaits something."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def line(prompt: str) -> str:
    """An answer without its line break.

    Raises:
        InvalidArgumentError: the input has ended.
    """
    with answering():
        sys.stderr.write(prompt)
        sys.stderr.flush()
        answer = sys.stdin.readline()
    return answer.rstrip("\n") if answer else _ended(prompt)


def secret(prompt: str) -> str:
    """An answer that is not shown; raises as `line` does."""
    try:
        with answering():
            return getpass(prompt)
    except EOFError:
        return _ended(prompt)


def _ended(prompt: str) -> str:
    sys.stderr.write("\n")
    raise InvalidArgumentError(f"{prompt.strip().rstrip(':')}: no answer, the input has ended")
