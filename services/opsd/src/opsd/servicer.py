"""OTLP's trace service on opsd's socket: this is where the services of a bare node send their spans."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc

from common.turns import Turns
from opsd import redact
from opsd.forward import Forward
from opsd.spans import Span, SpanStore

STATUS_ERROR = 2
MAX_TEXT = 400
"""Characters kept of a name, a value or an error."""
MAX_ATTRIBUTES = 24
MAX_RESOURCE_ATTRIBUTES = 128
MAX_READ = 8 << 10
"""Characters or bytes looked at of what a delivery may fill with megabytes; more than a URL with a password has."""


class TraceServicer(rpc.TraceServiceServicer):
    """opentelemetry.proto.collector.trace.v1.TraceService."""

    def __init__(self, spans: SpanStore, forward: Forward | None) -> None:
        self._spans = spans
        self._forward = forward

    async def Export(
        self, request: pb.ExportTraceServiceRequest, context: Any
    ) -> pb.ExportTraceServiceResponse:
        turns = Turns()
        for resource in request.resource_spans:
            await turns.give()
            service, node = _origin(resource.resource.attributes)
            for scope in resource.scope_spans:
                await turns.give()
                for each in scope.spans:
                    self._spans.add(_span(each, service, node))
                    await turns.give()
        if self._forward:
            self._forward.take(request)
        return pb.ExportTraceServiceResponse()


def _origin(attributes: Iterable[Any]) -> tuple[str, str]:
    """The service and the node."""
    about = {a.key: a.value.string_value[:MAX_TEXT] for a in islice(attributes, MAX_RESOURCE_ATTRIBUTES)}
    return about.get("service.name", ""), about.get("host.name", "")


def _span(span: Any, service: str, node: str) -> Span:
    failed = span.status.code == STATUS_ERROR
    attributes = {a.key[:MAX_TEXT]: _text(a.key, a.value) for a in islice(span.attributes, MAX_ATTRIBUTES)}
    return Span(
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        name=span.name[:MAX_TEXT],
        service=service,
        node=node,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        error=redact.text(_cut(span.status.message) or "error")[:MAX_TEXT]
        if failed
        else attributes.get("error", ""),
        attributes=attributes,
    )


def _text(key: str, value: Any) -> str:
    kind = value.WhichOneof("value")
    if value.ByteSize() > MAX_READ and kind != "string_value":
        return f"{kind} of {value.ByteSize()} bytes"
    found = getattr(value, kind) if kind else ""
    return redact.value(_cut(key), _cut(found if isinstance(found, str) else str(found).strip()))[:MAX_TEXT]


def _cut(found: str) -> str:
    """A text that is short enough to look for secrets in; what ends in the middle of one would not be found."""
    if len(found) <= MAX_READ:
        return found
    words = found[:MAX_READ].rsplit(maxsplit=1)
    return words[0] if words else ""
