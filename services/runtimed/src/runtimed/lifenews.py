"""CRI's container events from the lifecycle events: what went into the outbox is told, with all statuses, in its order.

The record stores call when a change is visible and its events are on the outbox stream, so nothing waits for NATS,
and there is a CRI event if and only if there is a durable one.
"""

from collections.abc import Sequence

from common.api.cri.v1 import api_pb2 as cri
from common.events import schema
from common.records import RecordStore
from runtimed import convert, selection
from runtimed.feed import Feed
from runtimed.record import ContainerRecord, Origin, SandboxRecord

CREATED, STARTED = cri.CONTAINER_CREATED_EVENT, cri.CONTAINER_STARTED_EVENT
STOPPED, DELETED = cri.CONTAINER_STOPPED_EVENT, cri.CONTAINER_DELETED_EVENT
KINDS: "dict[type[schema.Event], tuple[cri.ContainerEventType.ValueType, ...]]" = {
    schema.SandboxReady: (CREATED, STARTED),
    schema.SandboxStopped: (STOPPED,),
    schema.SandboxRemoved: (DELETED,),
    schema.ContainerCreated: (CREATED,),
    schema.ContainerStarted: (STARTED,),
    schema.ContainerStartFailed: (STOPPED,),
    schema.ContainerExited: (STOPPED,),
    schema.ContainerRemoved: (DELETED,),
}
"""Events that are not here change nothing that a kubelet looks at; for ContainerUnknown CRI has no kind, it is listed."""


class LifeNews:
    """Tells a feed of the changes of both stores, for as long as they live."""

    def __init__(
        self,
        feed: Feed,
        sandboxes: RecordStore[SandboxRecord],
        containers: RecordStore[ContainerRecord],
        *,
        command_pods: bool,
    ) -> None:
        """`command_pods` says whether those of the command line are told, too."""
        self._command_pods = command_pods
        self._feed, self._sandboxes, self._containers = feed, sandboxes, containers
        sandboxes.on_change(self._sandbox)
        containers.on_change(self._container)

    def _sandbox(self, record: SandboxRecord, facts: Sequence[schema.Event]) -> None:
        self._tell(record, facts)

    def _container(self, record: ContainerRecord, facts: Sequence[schema.Event]) -> None:
        self._tell(self._sandboxes.find(record.sandbox_id), facts)

    def _tell(self, sandbox: SandboxRecord | None, facts: Sequence[schema.Event]) -> None:
        if sandbox is None or not self._feed.heard:  # a kubelet ignores an event without its sandbox
            return
        if sandbox.origin is Origin.COMMAND and not self._command_pods:
            return
        for fact in facts:
            for kind in KINDS.get(type(fact), ()):
                fitting = [r for r in selection.listed(self._containers) if r.sandbox_id == sandbox.id]
                self._feed.publish(convert.event(kind, fact.id, sandbox, fitting))
