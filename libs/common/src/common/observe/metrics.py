"""Prometheus metrics of this process: one registry, in which each module makes what it counts.

A name is `slipway_<service>_<what>_<unit>`; what every service has is `slipway_<what>_<unit>` with the label `service`.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
import anyio.to_thread
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from common.errors import SlipwayError
from common.observe import trace
from common.observe.log import get_logger

MEASURE_S = 1.0
"""How long a scrape waits for what has to be asked for."""
SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Buckets of what a caller waits for."""
LONG_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Buckets of what moves much data."""
_log = get_logger("metrics")
_registry = CollectorRegistry()
_measures: list[Callable[[], Awaitable[None]]] = []
_service = ""
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Metric:
    """One metric as it is documented."""

    name: str
    kind: str
    text: str
    labels: Sequence[str]


catalogue: list[Metric] = []
"""All that this process has made."""


def setup(service: str) -> None:
    """Say whose metrics these are; to be called once, before any is counted."""
    global _service
    _service = service
    ProcessCollector(registry=_registry)
    trace.step_ended.append(lambda name, seconds: _STEPS.labels(name).observe(seconds))


def service() -> str:
    """The value of the label `service`."""
    return _service


def counter(name: str, text: str, labels: Sequence[str] = (), known: Sequence[str] = ()) -> Counter:
    """A count that only grows; `name` is without `slipway_` and ends in `_total`.

    The `known` values of its label are there from the start, as 0: Prometheus sees no growth in a first sample.
    """
    made = Counter(_noted(name, "counter", text, labels), text, labels, registry=_registry)
    for value in known:
        made.labels(value)
    return made


def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
    """A value of now."""
    return Gauge(_noted(name, "gauge", text, labels), text, labels, registry=_registry)


def histogram(
    name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = SHORT_S
) -> Histogram:
    """Durations in seconds."""
    return Histogram(
        _noted(name, "histogram", text, labels), text, labels, registry=_registry, buckets=buckets
    )


def _noted(name: str, kind: str, text: str, labels: Sequence[str]) -> str:
    whole = f"slipway_{name}"
    catalogue.append(Metric(whole, kind, text, labels))
    return whole


_STEPS = histogram(
    "step_duration_seconds",
    "How long the steps of operations took, by the names of their spans.",
    ["step"],
    LONG_S,
)


def measure(fn: Callable[[], Awaitable[None]]) -> None:
    """Call this before each scrape, for gauges whose value has to be asked for."""
    _measures.append(fn)


async def render() -> bytes:
    """All metrics in Prometheus' text format."""
    async with anyio.create_task_group() as group:
        for fn in _measures:
            group.start_soon(_measured, fn)
    return await anyio.to_thread.run_sync(generate_latest, _registry)


async def _measured(fn: Callable[[], Awaitable[None]]) -> None:
    try:
        with anyio.fail_after(MEASURE_S):
            await fn()
    except (SlipwayError, TimeoutError) as exc:
        _log.debug("metrics.unmeasured", error=str(exc) or "took too long")
