"""inspect: all that is known of containers and pods, as JSON."""

from argparse import Namespace

from common.api.cri.v1 import api_pb2 as cri
from slipway import render
from slipway.connect import node


async def containers(arguments: Namespace) -> int:
    """Print all that is known of containers."""
    documents = []
    async with node(arguments.run_dir) as on:
        for name in arguments.container:
            found = await on.container(name)
            request = cri.ContainerStatusRequest(container_id=found.id, verbose=True)
            answer = await on.runtime.ContainerStatus(request)
            documents.append(render.fields(answer))
    render.document(documents)
    return 0


async def pods(arguments: Namespace) -> int:
    """Print all that is known of pods."""
    documents = []
    async with node(arguments.run_dir) as on:
        for name in arguments.pod:
            found = await on.pod(name)
            request = cri.PodSandboxStatusRequest(pod_sandbox_id=found.id, verbose=True)
            answer = await on.runtime.PodSandboxStatus(request)
            documents.append(render.fields(answer))
    render.document(documents)
    return 0
