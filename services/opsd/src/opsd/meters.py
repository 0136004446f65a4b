"""What opsd counts for Prometheus."""

from functools import partial

from common.observe import metrics
from opsd.fleet import Fleet
from opsd.spans import SpanStore

PAGES = metrics.gauge("opsd_pages", "Pages that follow the changes now.")
NODES = metrics.gauge("opsd_nodes", "Nodes that are known, by whether they are heard.", ["up"])
SPANS = metrics.gauge("opsd_spans", "Spans that are held in memory.")
DROPPED = metrics.counter(
    "opsd_spans_dropped_total", "Deliveries of spans that the collector behind opsd did not take."
)
CONNECTED = metrics.gauge("opsd_nats_up", "Whether NATS answers opsd (1) or not (0).")


def show(fleet: Fleet, spans: SpanStore) -> None:
    """Have the gauges read what is."""
    PAGES.set_function(lambda: fleet.pages)
    SPANS.set_function(lambda: spans.count)
    CONNECTED.set_function(lambda: bool(fleet.link["connected"]))
    for up in (True, False):
        NODES.labels(str(up).lower()).set_function(partial(_count, fleet, up=up))


def _count(fleet: Fleet, *, up: bool) -> int:
    return sum(view.up is up for view in list(fleet.nodes.values()))  # a scrape reads it in a thread
