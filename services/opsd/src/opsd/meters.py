"""What opsd counts for Prometheus."""

from functools import partial

import anyio

from common.observe import metrics
from opsd.fleet import Fleet
from opsd.spans import SpanStore

PAGES = metrics.gauge("opsd_pages", "Pages that follow the changes now.")
NODES = metrics.gauge("opsd_nodes", "Nodes that are known, by whether they are heard.", ["up"])
SPANS = metrics.gauge("opsd_spans", "Spans that are held in memory.")
SPAN_BYTES = metrics.gauge("opsd_span_bytes", "What the spans in memory take, about.")
DROPPED = metrics.counter(
    "opsd_spans_dropped_total", "Deliveries of spans that the collector behind opsd did not take."
)
REFUSED = metrics.counter(
    "opsd_http_refused_total", "Connections that were one too many, of their address or in all."
)
LEFT = metrics.counter(
    "opsd_http_left_total", "Clients, open pages mostly, that took nothing for ten seconds and were left."
)
LOOP_WAIT = metrics.histogram(
    "opsd_loop_wait_seconds",
    "How late opsd came to what was due: whatever it does waits as long.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1),
)
LOOP_EVERY_S = 0.05
CONNECTED = metrics.gauge("opsd_nats_up", "Whether NATS answers opsd (1) or not (0).")


def show(fleet: Fleet, spans: SpanStore) -> None:
    """Have the gauges read what is."""
    PAGES.set_function(lambda: fleet.pages)
    SPANS.set_function(lambda: spans.count)
    SPAN_BYTES.set_function(lambda: spans.bytes)
    CONNECTED.set_function(lambda: bool(fleet.link["connected"]))
    for up in (True, False):
        NODES.labels(str(up).lower()).set_function(partial(_count, fleet, up=up))


async def watch_loop() -> None:
    """Measure for ever how late the event loop is."""
    while True:
        due = anyio.current_time() + LOOP_EVERY_S
        await anyio.sleep(LOOP_EVERY_S)
        LOOP_WAIT.observe(anyio.current_time() - due)


def _count(fleet: Fleet, *, up: bool) -> int:
    return sum(view.up is up for view in list(fleet.nodes.values()))  # a scrape reads it in a thread
