"""What a person wants to see of all pods and containers: CRI's entry, and what CRI keeps for ContainerStatus."""

from common.api.runtime.v1 import runtime_pb2 as pb
from runtimed import convert, selection
from runtimed.record import ContainerRecord, ContainerState, SandboxRecord
from runtimed.use.parts import Parts


def overview(parts: Parts) -> pb.OverviewResponse:
    """All that are listed, oldest first."""
    pods = {pod.id: pod for pod in parts.sandboxes.store.all()}
    listed = selection.listed(parts.containers.store)
    shown = [
        pb.PodOverview(pod=convert.sandbox_item(pod), origin=pod.origin, error=pod.error)
        for pod in selection.listed(parts.sandboxes.store)
    ]
    return pb.OverviewResponse(
        containers=[_entry(record, pods.get(record.sandbox_id)) for record in listed], pods=shown
    )


def _entry(record: ContainerRecord, pod: SandboxRecord | None) -> pb.ContainerOverview:
    entry = pb.ContainerOverview(
        container=convert.container_item(record),
        paused=record.state is ContainerState.PAUSED,
        exit_code=record.exit_code,
        started_at=record.started_at_ns,
        finished_at=record.finished_at_ns,
        origin=record.origin,
        command=record.command,
    )
    if pod is not None:
        entry.pod_name, entry.pod_namespace = pod.name, pod.namespace
        entry.ports.extend(convert.sandbox_config(pod).port_mappings)
    return entry
