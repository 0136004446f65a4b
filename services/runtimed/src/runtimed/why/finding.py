"""What the rules look at, and what they find."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from runtimed.evidence import Mark
from runtimed.record import ContainerRecord
from runtimed.why.program import Program


@dataclass(frozen=True)
class Finding:
    """A conclusion: `cause` is for programs, the words for people.

    The words of an error's rule go on a sentence such as `It could not be started: `; those of an end's are a sentence.
    """

    cause: str
    words: str
    next_steps: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """An error that somebody was told."""

    text: str
    reason: str = ""
    """Its class in common.errors; empty when it is not known."""
    program: Program | None = None
    """The file that was to be run; None when it is not there."""


@dataclass(frozen=True, kw_only=True)
class End:
    """A container that has ended."""

    record: ContainerRecord
    marks: Sequence[Mark]
    """What happened to it, oldest first."""
    rebooted: bool = False
    """Its pod was ready in an earlier boot of the machine."""
    trouble: Trouble | None = None
    """The OCI runtime's words, when they are all that it wrote: the program was never run."""
