"""The figures of a run: as a table on the terminal, and as docs/reliability.md."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from torture.kills import Fault
from torture.samples import Sample, slope_per_hour

STEADY_S = 1800
"""What is held grows until a node has seen a bit of everything: a change per hour means nothing before."""
PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
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

    def markdown(self) -> str:
        """The tables."""
        lines = [
            f"{self.workers} workers for {self.seconds:.0f} s, seed {self.seed}.",
            "",
            *_table(["Killed by SIGKILL", "times", "back after, median s", "worst s"], self._faults()),
            "",
            *_table(["Checked", "number"], sorted((what, str(n)) for what, n in self.counts.items())),
            "",
            f"Lost or untrue: **{len(self.problems)}**. Calls that were to be asked again: {sum(self.refused.values())}.",
            "",
            *self._held(),
        ]
        return "\n".join(lines) + "\n"

    def _faults(self) -> list[tuple[str, ...]]:
        rows = []
        for victim, times in sorted(Counter(fault.victim for fault in self.faults).items()):
            took = sorted(fault.recovered_s for fault in self.faults if fault.victim == victim)
            rows.append((victim, str(times), f"{took[len(took) // 2]:.2f}", f"{took[-1]:.2f}"))
        return rows

    def _held(self) -> list[str]:
        long = self.seconds >= STEADY_S
        rows = []
        for figure, name in FIGURES.items():
            values = [float(getattr(sample, figure)) for sample in self.samples] or [0.0]
            row = [name, *(f"{value:.0f}" for value in (values[0], values[-1], max(values)))]
            rows.append((*row, *([f"{slope_per_hour(self.samples, figure):+.0f}"] if long else [])))
        return _table(
            ["Held by the node", "first", "last", "highest", *(["change per hour"] if long else [])], rows
        )


def _table(head: list[str], rows: list[tuple[str, ...]]) -> list[str]:
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _row(cells: "list[str] | tuple[str, ...]") -> str:
    return f"| {' | '.join(cells)} |"


HEAD = """# Reliability

What the node was made to go through, and what it lost. `sudo ./dev torture` does it again, on any machine:

```sh tested-by=tests/e2e/test_e2e_torture.py
sudo ./dev torture --seconds 120 --seed 1    # exit status 1 when anything is lost
sudo ./dev torture --long --write            # an hour, and this page anew
```

Workers pull an image, run pods of one and two containers, run commands in them, stop and remove them over CRI, while another
task kills by SIGKILL, at moments that the seed gives: each service, Redis, NATS, the zygote, single shims, and the OCI
runtime at its work; the callers leave all their calls now and then, as at a deadline. A call that was left, or is refused with
UNAVAILABLE, is made again. Checked are: every exit code and its
times; every line of every log; that a repeated call makes no second pod or container; the history of events, each event
once and in order; and at the end that nothing is left: processes, mounts, namespaces, cgroups, addresses, snapshots, records.

A container whose own shim is killed may lose its exit code (255, `Unknown`) and the end of its log; one whose OCI runtime is
killed while it starts ends with 128, `StartError`, or runs.

The supervisor starts at once what has died, and after up to 5 s what has died several times soon after its start; that is in the worst times
below.

## The kill matrix

Each step of a pod's life has failpoints (`libs/common/src/common/failpoint.py`), at which a service of a test's node can be held.
From this registry a matrix is made: each service, Redis, NATS and the zygote is killed at each failpoint, the shim where there is
one, and the OCI runtime at its own verbs; and at each one the caller leaves its call, and calls again. The pod's life goes on to its end: a repeated call answers the same id, the container
runs once, its exit code, its log lines and its events are complete, and `slipway doctor --deep` has nothing to tell. CI goes
through a sample that is always the same.

```sh tested-by=tests/e2e/test_e2e_matrix.py
sudo ./dev torture --matrix                     # all rows, in ten minutes
sudo ./dev torture --only 'shim at runtimed'    # those whose name has this
```

A new step gets a failpoint in its code and a line in the registry; a test fails where one of the two is missing, and the rows
come by themselves.

## Many pods

```sh tested-by=tests/e2e/test_e2e_torture.py
sudo ./dev torture --density    # 250 pods, each service and then all killed with them there, 1000 execs, 10,000 attaches
```

After the services were killed every container must be listed as running; every exec must have its own output and exit code; the
descriptors of the services must be as many as before.

`tests/e2e/test_e2e_model.py` has hypothesis call CRI in random orders, and some calls at the same time, and compares each answer with
a model of what a kubelet may rely on.

## Upgrades

```sh tested-by=tests/e2e/test_e2e_torture.py
sudo ./dev torture --upgrade HEAD~20    # install that revision, run pods under it, take over
```

Pods stay and pods come and go while the whole node is taken down and brought up by the newer code, under the shims of the older
one and with its records, and while each service is then restarted by SIGTERM. No call may fail but with `ask again`; what stays must
have run all the time, with every line of its log; and `slipway doctor --deep` has nothing to tell at the end.

## Stores that forget

A Redis that is wiped while the node runs gets every record anew within a minute, or with the next change of the record, or at the
start of its service from the copies on disk; of a log that was cut short the newer of record and copy counts. Events that had not
been relayed go with Redis, and the numbers of later events begin anew. A JetStream that is wiped is made again, without its history.
A log that a power cut left with bytes at its end that are no commands is cut after the last one by the node's supervisor.
`tests/e2e/test_e2e_outages.py` does each.

## Figures of one run

"""


def write(report: Report) -> None:
    """Write docs/reliability.md anew."""
    PAGE.write_text(HEAD + report.markdown())
