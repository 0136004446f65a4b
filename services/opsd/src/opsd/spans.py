"""The spans that this node's services have sent, in memory and bounded."""

from collections import OrderedDict

import msgspec

READS = ("List", "Get", "Status", "Stats", "Version", "Usage", "Watch", "FsInfo", "Stream", "Metric")
"""Words in the names of calls that only read: traces of nothing else are many, and are kept shortest."""
MAX_READS = 200
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


class _Trace:
    __slots__ = ("objects", "reads", "spans")

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self.objects: set[str] = set()
        self.reads = True
        """Whether no span of it did more than read."""


class SpanStore:
    """Spans by trace; the trace that was told of longest ago goes first, and those that only read before all others.

    Args:
        max_spans: kept at most.
    """

    def __init__(self, max_spans: int) -> None:
        self._max = max_spans
        self._lives: OrderedDict[str, _Trace] = OrderedDict()
        self._reads: OrderedDict[str, _Trace] = OrderedDict()
        self._of_object: dict[str, set[str]] = {}
        self.count = 0

    def add(self, span: Span) -> None:
        """Keep a span; one that is told twice is kept once."""
        trace = self._lives.pop(span.trace, None) or self._reads.pop(span.trace, None) or _Trace()
        self.count += span.id not in trace.spans
        trace.spans[span.id] = span
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
        while len(self._reads) > MAX_READS or (self.count > self._max and self._reads):
            self._drop(self._reads)
        while self.count > self._max and len(self._lives) > 1:
            self._drop(self._lives)
        if self.count > self._max:  # one trace alone is too much: its oldest spans go
            (last,) = self._lives.values()
            for span_id in list(last.spans)[: self.count - self._max]:
                del last.spans[span_id]
            self.count = len(last.spans)

    def _drop(self, traces: OrderedDict[str, _Trace]) -> None:
        trace_id, trace = traces.popitem(last=False)
        self.count -= len(trace.spans)
        for object_id in trace.objects:
            left = self._of_object[object_id]
            left.discard(trace_id)
            if not left:
                del self._of_object[object_id]
