"""A trace receiver: OTLP over gRPC into memory, and a trace drawn as a tree in text."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

WIDTH = 34
LABEL_WIDTH = 58


@dataclass(frozen=True)
class Span:
    """One span as it arrived."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    service: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str] = field(default_factory=dict)


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span; `wait_for` returns when a condition over them holds."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._arrived = anyio.Event()
        self.endpoint = ""

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the RPC
        """OTLP's one call."""
        for resource in request.resource_spans:
            service = {a.key: a.value.string_value for a in resource.resource.attributes}.get(
                "service.name", ""
            )
            for scope in resource.scope_spans:
                self.spans += [_span(span, service) for span in scope.spans]
        arrived, self._arrived = self._arrived, anyio.Event()
        arrived.set()
        return trace_service_pb2.ExportTraceServiceResponse()

    async def wait_for(self, condition: Any, within_s: float = 20.0) -> Any:
        """The condition's first true answer over `spans`.

        Raises:
            TimeoutError: it does not hold in time.
        """
        with anyio.fail_after(within_s):
            while not (found := condition(self.spans)):
                await self._arrived.wait()
        return found

    def trace(self, trace_id: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id == trace_id]


def _span(span: Any, service: str) -> Span:
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        service=service,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes={a.key: a.value.string_value or str(a.value.int_value) for a in span.attributes},
    )


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver on a free loopback port."""
    made = Receiver()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    made.endpoint = f"http://127.0.0.1:{port}"
    try:
        yield made
    finally:
        await server.stop(0)


def draw(spans: list[Span]) -> str:
    """The spans of one trace as a waterfall, children under their parents."""
    known = {span.span_id for span in spans}
    start = min(span.start_ns for span in spans)
    total = max(max(span.end_ns for span in spans) - start, 1)
    lines: list[str] = []

    def walk(parent: str, depth: int) -> None:
        children = [s for s in spans if (s.parent_id if s.parent_id in known else "") == parent]
        for span in sorted(children, key=lambda s: s.start_ns):
            left = int((span.start_ns - start) * WIDTH / total)
            width = max(1, int((span.end_ns - span.start_ns) * WIDTH / total))
            bar = (" " * left + "█" * width)[:WIDTH].ljust(WIDTH)
            label = f"{'  ' * depth}{span.service}: {span.name.rpartition('/')[2]}"[:LABEL_WIDTH].ljust(
                LABEL_WIDTH
            )
            lines.append(f"{label} {bar} {(span.end_ns - span.start_ns) / 1e6:8.1f} ms")
            walk(span.span_id, depth + 1)

    walk("", 0)
    return "\n".join(lines)
