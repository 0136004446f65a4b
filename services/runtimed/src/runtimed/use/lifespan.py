"""Spans of a sandbox's or container's life."""

from contextlib import AbstractContextManager

from common.observe.trace import remote_span, span, traceparent
from runtimed.record import ContainerRecord, SandboxRecord

_TRACE_ID = slice(3, 35)


def life_span(name: str, record: SandboxRecord | ContainerRecord) -> AbstractContextManager[object]:
    """A span of an object's life: below the request when that is of the same trace, else below its creation."""
    facts = {"slipway.object.id": record.id}
    if traceparent()[_TRACE_ID] == record.traceparent[_TRACE_ID]:
        return span(name, facts)
    return remote_span(name, record.traceparent, facts)
