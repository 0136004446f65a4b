"""What runtimed counts for Prometheus."""

from collections import Counter
from collections.abc import Sequence

from common.events import schema
from common.observe import metrics
from common.records import RecordStore
from runtimed.record import ContainerRecord, ContainerState, SandboxRecord, SandboxState

READERS_CUT = metrics.counter(
    "runtimed_event_readers_cut_total", "Readers of GetContainerEvents that were too slow and cut off."
)
LOG_BYTES = metrics.counter("runtimed_log_bytes_total", "Bytes in the logs of containers that ended.")
LOG_DROPPED = metrics.counter(
    "runtimed_log_dropped_bytes_total", "Bytes of output that were lost because the log could not be written."
)
_SANDBOXES = metrics.gauge("runtimed_sandboxes", "Sandboxes by state.", ["state"])
_CONTAINERS = metrics.gauge("runtimed_containers", "Containers by state.", ["state"])
_EXITS = metrics.counter(
    "runtimed_container_exits_total",
    "Containers that ended, by reason.",
    ["reason"],
    ["Completed", "Error", "OOMKilled", "Unknown"],
)
_START_FAILURES = metrics.counter("runtimed_start_failures_total", "Containers that could not be started.")
EXECS = metrics.counter(
    "runtimed_execs_total",
    "Commands in containers that ended, as ok, failed or timed_out.",
    ["result"],
    ["ok", "failed", "timed_out"],
)
PRESSURE = metrics.gauge(
    "runtimed_node_pressure", "Whether the node is under pressure (1), by resource.", ["resource"]
)
PRESSURE_PERCENT = metrics.gauge(
    "runtimed_node_pressure_percent",
    "Of the last 10 s in which a process waited for it, or in use of the data directory's filesystem.",
    ["resource"],
)
CONTAINER_PRESSURE = metrics.counter(
    "runtimed_container_pressure_total",
    "How often containers came under pressure, by resource.",
    ["resource"],
    ["memory-usage", "memory-high", "memory-limit", "oom-kill"],
)
REPAIRS = metrics.counter(
    "runtimed_repairs_total", "Differences between records and machine that were mended."
)


class Meter:
    """Counts what the records and their events tell."""

    def __init__(
        self, sandboxes: RecordStore[SandboxRecord], containers: RecordStore[ContainerRecord]
    ) -> None:
        self._sandboxes, self._containers = sandboxes, containers
        containers.on_change(self._changed)
        metrics.measure(self._measure)

    def _changed(self, _record: ContainerRecord, facts: Sequence[schema.Event]) -> None:
        for fact in facts:
            match fact:
                case schema.ContainerExited():
                    _EXITS.labels(fact.reason).inc()
                case schema.ContainerStartFailed():
                    _START_FAILURES.inc()
                case _:
                    continue

    async def _measure(self) -> None:
        pods = Counter(record.state for record in self._sandboxes.all())
        for state in SandboxState:
            _SANDBOXES.labels(state).set(pods[state])
        records = Counter(record.state for record in self._containers.all())
        for condition in ContainerState:
            _CONTAINERS.labels(condition).set(records[condition])
