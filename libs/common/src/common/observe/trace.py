"""Traces: OpenTelemetry, with the SDK loaded only when there is an endpoint to send to.

Context crosses processes as W3C traceparent: in gRPC metadata, NATS headers and the environment of
OCI runtimes and CNI plugins.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode

Attributes = Mapping[str, str | int | float | bool]
_tracer = trace.get_tracer("slipway")
_shutdown: list[object] = []
step_begun: list[Callable[[str], None]] = []
"""To be told of each step that begins, in its own task."""
step_ended: list[Callable[[str, float], None]] = []
"""To be told of each step that ended, by name and seconds, whether or not spans are exported."""


def setup(service: str, node: str, endpoint: str) -> None:
    """Export spans to an OTLP endpoint; without one, spans are not recorded."""
    global _tracer
    if not endpoint:
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": service, "host.name": node})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    plain = endpoint.startswith(("http://", "unix:"))
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=plain, timeout=5)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500))
    trace.set_tracer_provider(provider)
    _tracer = trace.get_tracer("slipway")
    _shutdown.append(provider)


def shutdown() -> None:
    """Send what is still held; blocks for 5 s at most."""
    for provider in _shutdown:
        provider.shutdown()  # type: ignore[attr-defined]
    _shutdown.clear()


def traceparent() -> str:
    """The current context as a W3C traceparent; empty when there is none."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("traceparent", "")


def context_of(parent: str) -> Context | None:
    """The context that a traceparent names; None for an empty one."""
    return propagate.extract({"traceparent": parent}) if parent else None


@contextmanager
def span(
    name: str,
    attributes: Attributes | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: Context | None = None,
) -> Iterator[Span]:
    """A span around a step of the current task; an exception marks it as failed."""
    start = time.monotonic()
    if kind is SpanKind.INTERNAL:
        for begun in step_begun:
            begun(name)
    with _tracer.start_as_current_span(
        name, context=parent, kind=kind, attributes=attributes, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except Exception as exc:
            current.set_status(Status(StatusCode.ERROR, str(exc)))
            raise
        finally:
            if kind is SpanKind.INTERNAL:
                _ended(name, time.monotonic() - start)


@contextmanager
def unrecorded() -> Iterator[None]:
    """Have nothing of what is asked for in this block recorded, by any service: for what only looks, all the time."""
    nowhere = SpanContext(secrets.randbits(128) | 1, secrets.randbits(64) | 1, is_remote=False)
    with trace.use_span(NonRecordingSpan(nowhere)):
        yield


@contextmanager
def remote_span(name: str, parent: str, attributes: Attributes | None = None) -> Iterator[Span]:
    """A span that continues a stored context, such as the life of a container."""
    with span(name, attributes, parent=context_of(parent)) as current:
        yield current


def record_span(
    name: str, start_ns: int, end_ns: int, attributes: Attributes | None = None, *, parent: str = ""
) -> None:
    """A span that was measured elsewhere; a child of `parent`, or of the current span."""
    made = _tracer.start_span(name, context=context_of(parent), attributes=attributes, start_time=start_ns)
    made.end(end_time=end_ns)
    _ended(name, (end_ns - start_ns) / 1e9)


def _ended(name: str, seconds: float) -> None:
    for tell in step_ended:
        tell(name, seconds)
