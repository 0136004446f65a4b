"""Progress on a terminal: a bar for each blob; nothing when stderr is no terminal."""

import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

_ALL = "all"


class Row(NamedTuple):
    """One blob."""

    digest: str
    size_bytes: int
    done_bytes: int
    state: str


class Bars:
    """Bars by digest, until closed; none when they are not to be `shown`."""

    def __init__(self, *, shown: bool = True) -> None:
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self._progress = Progress(
                *columns, TextColumn("{task.fields[state]}"), console=Console(stderr=True)
            )
            self._progress.start()

    def show(self, rows: Iterable[Row]) -> None:
        """What there is now; a digest that was shown before changes its bar."""
        if self._progress is None:
            return
        for row in rows:
            if row.digest not in self._tasks:
                name = row.digest.partition(":")[2][:12]
                self._tasks[row.digest] = self._progress.add_task(name, total=row.size_bytes, state="")
            self._progress.update(self._tasks[row.digest], completed=row.done_bytes, state=row.state)

    def show_left(self, seconds: float | None) -> None:
        """Say under the bars how much of all there is, and how long the rest will take; None for not known."""
        if self._progress is None or not self._tasks:
            return
        tasks = [task for task in self._progress.tasks if task.id != self._tasks.get(_ALL)]
        total = sum(task.total for task in tasks)
        if _ALL not in self._tasks:
            self._tasks[_ALL] = self._progress.add_task("all", total=total, state="")
        self._progress.update(
            self._tasks[_ALL],
            total=total,
            completed=sum(task.completed for task in tasks),
            state="" if seconds is None else f"{seconds:.0f} s left",
        )

    def close(self) -> None:
        """Leave them as they are."""
        if self._progress is not None:
            self._progress.stop()
