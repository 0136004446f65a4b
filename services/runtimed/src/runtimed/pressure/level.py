"""Hysteresis: a value that passes its threshold is pressure until it has been well below it for a while."""

from dataclasses import dataclass
from enum import StrEnum

BELOW = 0.9
"""Part of the threshold under which a value is calm."""


class News(StrEnum):
    """What a reading changed."""

    RAISED = "raised"
    CLEARED = "cleared"


@dataclass(frozen=True)
class Level:
    """One watched value; times are in seconds of any clock."""

    raised_at: float | None = None
    calm_since: float | None = None

    def step(self, value: float, threshold: float, now: float, calm_s: float) -> "tuple[Level, News | None]":
        """The level after a reading, and what there is to tell."""
        if self.raised_at is None:
            return (Level(now), News.RAISED) if value >= threshold else (self, None)
        if value >= threshold * BELOW:
            return Level(self.raised_at), None
        since = now if self.calm_since is None else self.calm_since
        if now - since >= calm_s:
            return Level(), News.CLEARED
        return Level(self.raised_at, since), None
