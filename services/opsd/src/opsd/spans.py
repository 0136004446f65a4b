"""The spans that this node's services have sent, in memory and bounded."""

from collections import OrderedDict

import msgspec

READS = ("List", "Get", "Status", "Stats", "Version", "Usage", "Watch", "FsInfo", "Stream", "Metric")
"""Words in the names of calls that only read: traces of nothing else are many, and are kept shortest."""
MAX_READS = 200
SPAN_BYTES, TEXT_BYTES = 700, 50
"""Of a span, and of each text in it, besides the characters."""
OBJECTS = ("slipway.object.id", "slipway.container.id", "slipway.sandbox.id")
"""Attributes that say which object a span is about."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One span; times are Unix nanoseconds."""

    trace: str
    id: str
    parent: str
    name: str
    service: str
    node: str
    start_ns: int
    end_ns: int
    error: str = ""
    attributes: dict[str, str] = {}

    def size(self) -> int:
        """What it takes in memory, about, in bytes."""
        texts = (self.name, self.service, self.node, self.error, *self.attributes, *self.attributes.values())
        return SPAN_BYTES + sum(TEXT_BYTES + len(text) for text in texts)


class _Trace:
    __slots__ = ("bytes", "objects", "reads", "spans")

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self.bytes = 0
        self.objects: set[str] = set()
        self.reads = True
        """Whether no span of it did more than read."""


class SpanStore:
    """Spans by trace; the trace that was told of longest ago goes first, and those that only read before all others.

    Args:
        max_spans: kept at most.
        max_bytes: that they take at most.
    """

    def __init__(self, max_spans: int, max_bytes: int) -> None:
        self._max = max_spans
        self._max_bytes = max_bytes
        self._lives: OrderedDict[str, _Trace] = OrderedDict()
        self._reads: OrderedDict[str, _Trace] = OrderedDict()
        self._of_object: dict[str, set[str]] = {}
        self.count = 0
        self.bytes = 0

    def add(self, span: Span) -> None:
        """Keep a span; one that is told twice is kept once."""
        trace = self._lives.pop(span.trace, None) or self._reads.pop(span.trace, None) or _Trace()
        self._take_out(trace, span.id)
        trace.spans[span.id] = span
        size = span.size()
        self.count, self.bytes, trace.bytes = self.count + 1, self.bytes + size, trace.bytes + size
        trace.reads = trace.reads and any(word in span.name for word in READS)
        for key in OBJECTS:
            if value := span.attributes.get(key):
                trace.objects.add(value)
                self._of_object.setdefault(value, set()).add(span.trace)
        (self._reads if trace.reads else self._lives)[span.trace] = trace
        self._shrink()

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of one trace by their start; none when none is held."""
        found = self._lives.get(trace_id) or self._reads.get(trace_id)
        return sorted(found.spans.values(), key=lambda s: s.start_ns) if found else []

    def of_object(self, object_id: str) -> list[str]:
        """The traces that have to do with an object, the oldest first."""
        found = [(self.trace(t)[0].start_ns, t) for t in self._of_object.get(object_id, ())]
        return [trace_id for _, trace_id in sorted(found)]

    def _shrink(self) -> None:
        while len(self._reads) > MAX_READS or (self._too_much() and self._reads):
            self._drop(self._reads)
        while self._too_much() and len(self._lives) > 1:
            self._drop(self._lives)
        while self._too_much():  # one trace alone: its oldest spans go
            (last,) = self._lives.values()
            self._take_out(last, next(iter(last.spans)))

    def _too_much(self) -> bool:
        return self.count > self._max or self.bytes > self._max_bytes

    def _take_out(self, trace: _Trace, span_id: str) -> None:
        span = trace.spans.pop(span_id, None)
        if span:
            size = span.size()
            self.count, self.bytes, trace.bytes = self.count - 1, self.bytes - size, trace.bytes - size

    def _drop(self, traces: OrderedDict[str, _Trace]) -> None:
        trace_id, trace = traces.popitem(last=False)
        self.count -= len(trace.spans)
        self.bytes -= trace.bytes
        for object_id in trace.objects:
            left = self._of_object[object_id]
            left.discard(trace_id)
            if not left:
                del self._of_object[object_id]
