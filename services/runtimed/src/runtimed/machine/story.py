"""What happened to an object lately: it explains a refused transition."""

from collections import deque
from dataclasses import dataclass

LENGTH = 50


@dataclass(frozen=True)
class Step:
    """One transition."""

    before: str
    after: str
    event: str
    cause: str

    def __str__(self) -> str:
        return f"{self.before} -({self.event} by {self.cause})-> {self.after}"


class Story:
    """The last transitions of one object."""

    def __init__(self) -> None:
        self._steps: deque[Step] = deque(maxlen=LENGTH)

    def add(self, step: Step) -> None:
        self._steps.append(step)

    def __str__(self) -> str:
        return "; ".join(str(step) for step in self._steps)
