"""What processes and all below them take of memory, looked at again and again."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

INTERVAL_S = 0.05
T = TypeVar("T")


class Watch:
    """The most that some processes and their descendants took together (PSS)."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self.most_bytes = 0
        self._over = threading.Event()

    def run(self) -> None:
        """Look until `end`."""
        while not self._over.wait(INTERVAL_S):
            self.most_bytes = max(self.most_bytes, sum(map(pss_bytes, family(self._pids))))

    def end(self) -> None:
        self._over.set()


@contextmanager
def watched(pids: list[int]) -> Iterator[Watch]:
    """Watch processes while the block runs."""
    watch = Watch(pids)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join()


def family(pids: list[int]) -> list[int]:
    """Processes and all below them."""
    found, waiting = [], list(pids)
    while waiting:
        each = waiting.pop()
        found.append(each)
        waiting += _read(
            f"/proc/{each}/task/{each}/children", lambda text: [int(pid) for pid in text.split()], []
        )
    return found


def pss_bytes(pid: int) -> int:
    """The share of memory that is a process's; 0 when it has ended."""
    return _read(f"/proc/{pid}/smaps_rollup", lambda text: _kib(text, "Pss:") << 10, 0)


def peak_bytes(pid: int) -> int:
    """The most that a process has ever had in memory (VmHWM)."""
    return _read(f"/proc/{pid}/status", lambda text: _kib(text, "VmHWM:") << 10, 0)


def _kib(text: str, name: str) -> int:
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(name)), 0)


def _read(path: str, parse: Callable[[str], T], otherwise: T) -> T:
    try:
        return parse(Path(path).read_text())
    except OSError:
        return otherwise
