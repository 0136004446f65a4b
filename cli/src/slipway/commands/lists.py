"""ps, pods: what is on this node. Its imports are counted: people wait for it."""

from argparse import Namespace

from common.api.cri.v1 import api_pb2 as cri
from slipway import render
from slipway.connect import node

STATES = {
    cri.CONTAINER_CREATED: "Created",
    cri.CONTAINER_RUNNING: "Running",
    cri.CONTAINER_EXITED: "Exited",
    cri.CONTAINER_UNKNOWN: "Unknown",
}


async def containers(arguments: Namespace) -> int:
    """List containers."""
    async with node(arguments.run_dir) as on:
        found = (await on.runtime.ListContainers(cri.ListContainersRequest())).containers
        shown = [c for c in found if arguments.all or c.state == cri.CONTAINER_RUNNING]
        if arguments.output == "json":
            render.messages(shown)
            return 0
        rows = []
        for container in sorted(shown, key=lambda c: -c.created_at):
            image = container.image.user_specified_image or container.image.image
            state = STATES[container.state]
            if container.state == cri.CONTAINER_EXITED:
                request = cri.ContainerStatusRequest(container_id=container.id)
                status = (await on.runtime.ContainerStatus(request)).status
                state = f"Exited ({status.exit_code})"
            name, pod = container.metadata.name, container.pod_sandbox_id[:12]
            rows.append((container.id[:12], name, state, render.age(container.created_at), image, pod))
    render.table(("ID", "NAME", "STATE", "CREATED", "IMAGE", "POD"), rows)
    return 0


async def pods(arguments: Namespace) -> int:
    """List sandboxes."""
    async with node(arguments.run_dir) as on:
        found = (await on.runtime.ListPodSandbox(cri.ListPodSandboxRequest())).items
    if arguments.output == "json":
        render.messages(found)
        return 0
    rows = [
        (
            pod.id[:12],
            pod.metadata.namespace,
            pod.metadata.name,
            "Ready" if pod.state == cri.SANDBOX_READY else "NotReady",
            render.age(pod.created_at),
        )
        for pod in sorted(found, key=lambda p: -p.created_at)
    ]
    render.table(("ID", "NAMESPACE", "NAME", "STATE", "CREATED"), rows)
    return 0
