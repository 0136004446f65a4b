"""What must be true: of each container what it was told to do, what was done to it, and what was seen."""

from dataclasses import dataclass, field
from enum import StrEnum


class Harm(StrEnum):
    """Faults that one container has to bear, since what was killed was its own."""

    SHIM = "shim"
    RUNTIME = "OCI runtime"


@dataclass
class Life:
    """One container."""

    container_id: str
    sandbox_id: str
    lines: int
    """That it writes to its log, numbered from 0."""
    exit_code: int
    """That it ends with, unless it is stopped."""
    harm: set[Harm] = field(default_factory=set)
    started: bool = False
    removed: bool = False


@dataclass
class Book:
    """The account of a run; `problems` must be empty."""

    lives: dict[str, Life] = field(default_factory=dict)
    sandboxes: dict[str, str] = field(default_factory=dict)
    """The name of each by its id."""
    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + number

    def lost(self, what: str) -> None:
        """Note what was lost or was not true."""
        self.problems.append(what)
