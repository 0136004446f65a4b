"""What a build does: BuildKit's plain progress line by line, or on a terminal one line a step, redrawn.

Steps of several stages run at the same time; a plain line has the number of its step, the terminal shows what runs last.
"""

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from slipway.output.logfile import harmless

if TYPE_CHECKING:
    from types import TracebackType

TAIL = 6
"""Lines of a running command that a terminal shows."""
KEPT = 200
"""Lines of a command that are shown when it fails."""
REFRESHES_S = 10


class Step:
    """One numbered step."""

    def __init__(self, number: int, title: str) -> None:
        self.number, self.title = number, title
        self.cached = False
        self.failed = False
        self.lines: deque[str] = deque(maxlen=KEPT)
        self._start, self._end_s = time.monotonic(), 0.0

    @property
    def ended(self) -> bool:
        return bool(self._end_s)

    def end(self, *, failed: bool = False) -> None:
        """It is over."""
        self._end_s, self.failed = max(1e-9, time.monotonic() - self._start), failed

    def say(self, text: str) -> None:
        """A line of it."""
        self.lines.append(text)

    def note(self, text: str) -> None:
        """How far it is, which changes; only a terminal shows it."""

    def output(self, line: bytes) -> None:
        """A line that a command wrote."""
        text = harmless(line.rstrip(b"\r\n")).decode()
        self.say(f"{self.seconds():.3f} {text}")

    def seconds(self) -> float:
        return self._end_s or time.monotonic() - self._start


class _Plain(Step):
    """Each line is written as it comes."""

    def say(self, text: str) -> None:
        sys.stderr.write(f"#{self.number} {text}\n")
        sys.stderr.flush()


class _Drawn(Step):
    """Its last lines are on the screen while it runs."""

    def note(self, text: str) -> None:
        self.lines.clear()
        self.lines.append(text)


class Progress:
    """All steps of a build, on standard error; nothing when `quiet`.

    Args:
        quiet: shows nothing.
        plain: lines even on a terminal.
    """

    def __init__(self, *, quiet: bool, plain: bool = False) -> None:
        self._quiet = quiet
        self._plain = plain or not sys.stderr.isatty()
        self._steps: list[Step] = []
        self._start = time.monotonic()
        self._console: Any = None
        self._live: Any = None

    def __enter__(self) -> Self:
        if not self._quiet and not self._plain:
            from rich.console import Console
            from rich.live import Live

            self._console = Console(stderr=True)
            self._live = Live(
                console=self._console,
                get_renderable=self._screen,
                refresh_per_second=REFRESHES_S,
                vertical_overflow="crop",
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        if self._live is None:
            return
        self._live.stop()
        for step in self._steps:
            if step.failed and step.lines:
                lines = "".join(f"{line}\n" for line in step.lines)
                sys.stderr.write(f"------\n > {step.title}:\n{lines}------\n")

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A step from its title to how it ended."""
        number, shown = len(self._steps) + 1, harmless(title.replace("\n", " ").encode()).decode()
        if self._quiet:
            step = Step(number, shown)
        else:
            step = _Plain(number, shown) if self._plain else _Drawn(number, shown)
        self._steps.append(step)
        if self._plain:
            step.say(shown)
        try:
            yield step
        except BaseException:
            step.end(failed=True)
            if self._plain:
                step.say("ERROR")
            raise
        step.end()
        if self._plain:
            step.say("CACHED" if step.cached else f"DONE {step.seconds():.1f}s")
            if not self._quiet:
                sys.stderr.write("\n")

    def _screen(self) -> Any:
        """What a terminal shows now: the steps that fit, those that run last."""
        from rich.table import Table
        from rich.text import Text

        done = sum(step.ended for step in self._steps)
        state = "FINISHED" if done == len(self._steps) else f"({done}/{len(self._steps)})"
        table = Table.grid(expand=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column(justify="right", no_wrap=True)
        table.add_row(Text(f"[+] Building {time.monotonic() - self._start:.1f}s {state}"), "")
        rows: list[tuple[str, str, str]] = []
        for step in sorted(self._steps, key=lambda step: (not step.ended, step.number)):
            mark = "ERROR " if step.failed else "CACHED " if step.cached else ""
            style = "red" if step.failed else "blue" if step.ended else ""
            rows.append((f" => {mark}{step.title}", f"{step.seconds():.1f}s", style))
            if not step.ended:
                rows += [(f" => => # {line}", "", "dim") for line in list(step.lines)[-TAIL:]]
        room = self._console.size.height - 2
        for title, seconds, style in rows[-room:]:
            table.add_row(Text(title, style), Text(seconds, style))
        return table
