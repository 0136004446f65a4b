"""The figures of a churn under kills, as a section of the page."""

from dataclasses import dataclass, field

from torture.kills import Fault, recovered
from torture.page import Section, Table
from torture.samples import Sample, slope_per_hour

SOAK_S = 600
"""What is held grows until a node has seen a bit of everything: a change per hour means nothing in a shorter run."""
FIGURES = {
    "memory_mib": "memory of the services, MiB PSS",
    "fds": "file descriptors of the services",
    "mounts": "mounts",
    "redis_keys": "keys in Redis",
    "stream_lag": "events that wait for JetStream",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a run has found."""

    seed: int
    seconds: float
    workers: int
    counts: dict[str, int]
    refused: dict[str, int]
    """Calls that were answered with `ask again`, by kind."""
    faults: list[Fault]
    samples: list[Sample]
    problems: list[str] = field(default_factory=list)

    @property
    def part(self) -> str:
        """Which section of the page it is: a long one tells slopes."""
        return "soak" if self.seconds >= SOAK_S else "churn"

    def section(self) -> Section:
        counts = [[what, str(number)] for what, number in sorted(self.counts.items())]
        asked = sum(self.refused.values())
        return Section(
            ran=f"{self.workers} workers for {self.seconds:.0f} s, seed {self.seed}; {asked} calls were to be asked again.",
            faults=len(self.faults),
            survived=sum(map(recovered, self.faults)),
            worst_s=max((fault.recovered_s for fault in self.faults), default=0.0),
            lost=self.problems,
            tables=[self._faults(), Table(["Checked", "number"], counts), self._held()],
        )

    def _faults(self) -> Table:
        rows = []
        for victim in sorted({fault.victim for fault in self.faults}):
            its = [fault for fault in self.faults if fault.victim == victim]
            took = sorted(fault.recovered_s for fault in its)
            median_s, worst_s = took[len(took) // 2], took[-1]
            rows.append(
                [victim, *map(str, (len(its), sum(map(recovered, its)))), f"{median_s:.2f}", f"{worst_s:.2f}"]
            )
        return Table(["Fault", "times", "survived", "back after, median s", "worst s"], rows)

    def _held(self) -> Table:
        soaked = self.part == "soak"
        head, rows = ["Held by the node", "first", "last", "highest"], []
        for figure, name in FIGURES.items():
            values = [float(getattr(sample, figure)) for sample in self.samples] or [0.0]
            rows.append([name, *(f"{value:.0f}" for value in (values[0], values[-1], max(values)))])
            if soaked:
                later = self.samples[len(self.samples) // 2 :]
                rows[-1].append(f"{slope_per_hour(later, figure):+.1f}")
        return Table([*head, *(["slope of the second half, per hour"] if soaked else [])], rows)
