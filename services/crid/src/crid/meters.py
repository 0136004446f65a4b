"""What crid counts for Prometheus."""

from collections.abc import Iterator
from contextlib import contextmanager

from common.observe import metrics

_OPEN = metrics.gauge(
    "crid_streams_open", "Clients of exec, attach and port-forward that are served now.", ["kind"]
)
_STREAMS = metrics.counter(
    "crid_streams_total", "Clients of exec, attach and port-forward that were served.", ["kind"]
)
REFUSED = metrics.counter(
    "crid_streams_refused_total", "Streaming requests that were refused, by HTTP status.", ["status"]
)


@contextmanager
def served(kind: str) -> Iterator[None]:
    """Count a client for as long as the block runs."""
    _STREAMS.labels(kind).inc()
    with _OPEN.labels(kind).track_inprogress():
        yield
