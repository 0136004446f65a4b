"""Records as CRI messages."""

from collections.abc import Iterable

from common.api.cri.v1 import api_pb2 as cri
from common.clock import now_ns
from runtimed import signals
from runtimed.record import ContainerRecord, ContainerState, SandboxRecord, SandboxState

_STATES = {
    ContainerState.CREATING: cri.CONTAINER_CREATED,
    ContainerState.CREATED: cri.CONTAINER_CREATED,
    ContainerState.STARTING: cri.CONTAINER_CREATED,
    ContainerState.RUNNING: cri.CONTAINER_RUNNING,
    ContainerState.PAUSED: cri.CONTAINER_RUNNING,  # CRI has no word for it, and a kubelet must not start another
    ContainerState.EXITED: cri.CONTAINER_EXITED,
    ContainerState.REMOVING: cri.CONTAINER_EXITED,
    ContainerState.UNKNOWN: cri.CONTAINER_UNKNOWN,
}


def container_state(record: ContainerRecord) -> "cri.ContainerState.ValueType":
    return _STATES[record.state]


def sandbox_state(record: SandboxRecord) -> "cri.PodSandboxState.ValueType":
    return cri.SANDBOX_READY if record.state is SandboxState.READY else cri.SANDBOX_NOTREADY


def sandbox_config(record: SandboxRecord) -> cri.PodSandboxConfig:
    return cri.PodSandboxConfig.FromString(record.config)


def container_config(record: ContainerRecord) -> cri.ContainerConfig:
    return cri.ContainerConfig.FromString(record.config)


def sandbox_metadata(record: SandboxRecord) -> cri.PodSandboxMetadata:
    return cri.PodSandboxMetadata(
        name=record.name, uid=record.uid, namespace=record.namespace, attempt=record.attempt
    )


def sandbox_item(record: SandboxRecord) -> cri.PodSandbox:
    """One entry of ListPodSandbox."""
    return cri.PodSandbox(
        id=record.id,
        metadata=sandbox_metadata(record),
        state=sandbox_state(record),
        created_at=record.created_at_ns,
        labels=record.labels,
        annotations=record.annotations,
        runtime_handler=record.requested_handler,
    )


def sandbox_status(record: SandboxRecord) -> cri.PodSandboxStatus:
    """PodSandboxStatus; the IP of host network is the node's, so it is left empty.

    That of a sandbox which is not ready any more may be another pod's soon, and from an event a kubelet takes it
    whatever the state.
    """
    status = cri.PodSandboxStatus(
        id=record.id,
        metadata=sandbox_metadata(record),
        state=sandbox_state(record),
        created_at=record.created_at_ns,
        labels=record.labels,
        annotations=record.annotations,
        runtime_handler=record.requested_handler,
    )
    options = sandbox_config(record).linux.security_context.namespace_options
    status.linux.namespaces.options.CopyFrom(options)
    ips = record.ips if record.state is SandboxState.READY else []
    status.network.ip = ips[0] if ips else ""
    status.network.additional_ips.extend(cri.PodIP(ip=ip) for ip in ips[1:])
    return status


def container_metadata(record: ContainerRecord) -> cri.ContainerMetadata:
    return cri.ContainerMetadata(name=record.name, attempt=record.attempt)


def container_item(record: ContainerRecord) -> cri.Container:
    """One entry of ListContainers: a kubelet finds by both fields which of ListImages are in use."""
    return cri.Container(
        id=record.id,
        pod_sandbox_id=record.sandbox_id,
        metadata=container_metadata(record),
        image=container_config(record).image,
        image_ref=record.image_id,
        image_id=record.image_id,
        state=container_state(record),
        created_at=record.created_at_ns,
        labels=record.labels,
        annotations=record.annotations,
    )


def container_status(record: ContainerRecord) -> cri.ContainerStatus:
    """ContainerStatus, with every mount by its host path: kubelets read termination messages there.

    A kubelet creates by an image's id, and shows people what is told here: the name that they gave, and its digest.
    """
    config = container_config(record)
    config.image.image = config.image.user_specified_image or config.image.image
    status = cri.ContainerStatus(
        id=record.id,
        metadata=container_metadata(record),
        state=container_state(record),
        created_at=record.created_at_ns,
        started_at=record.started_at_ns,
        finished_at=record.finished_at_ns,
        exit_code=record.exit_code,
        image=config.image,
        image_ref=record.image_ref,
        image_id=record.image_id,
        reason=record.reason,
        message=record.message,
        labels=record.labels,
        annotations=record.annotations,
        mounts=config.mounts,
        log_path=record.log_path,
        stop_signal=cri.Signal.ValueType(signals.to_cri(record.stop_signal)),
    )
    status.mounts.extend(
        cri.Mount(container_path=path, host_path=source) for path, source in record.volumes.items()
    )
    status.resources.linux.CopyFrom(cri.LinuxContainerResources.FromString(record.resources))
    user = status.user.linux
    user.uid, user.gid = record.user.uid, record.user.gid
    user.supplemental_groups.extend(record.user.groups)
    return status


def event(
    kind: "cri.ContainerEventType.ValueType",
    object_id: str,
    sandbox: SandboxRecord,
    containers: Iterable[ContainerRecord],
) -> cri.ContainerEventResponse:
    """An entry of GetContainerEvents, stamped now: after the change is visible."""
    response = cri.ContainerEventResponse(
        container_id=object_id, container_event_type=kind, created_at=now_ns()
    )
    response.pod_sandbox_status.CopyFrom(sandbox_status(sandbox))
    response.containers_statuses.extend(container_status(record) for record in containers)
    return response
