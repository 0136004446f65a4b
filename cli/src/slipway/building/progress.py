"""What a build does, told line by line as BuildKit's plain progress."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from slipway.logfile import harmless


class Step:
    """One numbered step."""

    def __init__(self, number: int, *, quiet: bool) -> None:
        self._number, self._quiet = number, quiet
        self._start = time.monotonic()
        self.cached = False

    def say(self, text: str) -> None:
        """A line of it."""
        if not self._quiet:
            sys.stderr.write(f"#{self._number} {text}\n")
            sys.stderr.flush()

    def output(self, line: bytes) -> None:
        """A line that a command wrote."""
        text = harmless(line.rstrip(b"\r\n")).decode()
        self.say(f"{self.seconds():.3f} {text}")

    def seconds(self) -> float:
        return time.monotonic() - self._start


class Progress:
    """All steps of a build, on standard error; nothing when `quiet`."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._count = 0

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A step from its title to how it ended."""
        self._count += 1
        step = Step(self._count, quiet=self._quiet)
        step.say(harmless(title.replace("\n", " ").encode()).decode())
        try:
            yield step
        except Exception:
            step.say("ERROR")
            raise
        step.say("CACHED" if step.cached else f"DONE {step.seconds():.1f}s")
        if not self._quiet:
            sys.stderr.write("\n")
