"""What a server's calls take and how they fail."""

from common.observe import metrics

_SECONDS = metrics.histogram(
    "rpc_duration_seconds", "How long calls took that are answered once.", ["service", "method"]
)
_ERRORS = metrics.counter("rpc_errors_total", "Calls that ended in an error.", ["service", "method", "code"])
CANCELLED = "CANCELLED"


def count(method: str, seconds: float, code: str, *, unary: bool) -> None:
    """One call has ended; an empty code is success."""
    if unary:
        _SECONDS.labels(metrics.service(), method).observe(seconds)
    if code:
        _ERRORS.labels(metrics.service(), method, code).inc()
