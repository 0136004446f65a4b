"""What a deep look finds."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Difference:
    """Something that should not be there, or should and is not."""

    kind: str
    """The area, one word: record, shim, mount, address, event, …"""
    name: str
    """Whose: an object's id, a path."""
    what: str
    passing: bool = False
    """The node gets rid of it by itself: imaged sweeps hourly what is older than its `partial_max_age_s`, a day."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.what}"
