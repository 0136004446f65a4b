"""One row of the report."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """What was measured, its floor or peer, the ratio and the goal."""

    name: str
    value: float
    unit: str
    against: str
    floor: float
    goal: str

    @property
    def ratio(self) -> float:
        return self.value / self.floor if self.floor else 0.0
