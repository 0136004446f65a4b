"""pods run, pods stop, pods rm."""

import asyncio
import sys
from argparse import Namespace
from pathlib import Path

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError
from slipway.connect import OWNER, TIMEOUT_S, Node, node
from slipway.containers import podfile
from slipway.containers.batch import each
from slipway.containers.creation import name_images, run_sandbox
from slipway.containers.images import MISSING
from slipway.containers.removal import remove_pod
from slipway.output import nicknames


async def run(arguments: Namespace) -> int:
    """Run a pod and its containers, all of it or nothing; print its id."""
    if bool(arguments.file) == bool(arguments.images):
        message = "pods run: want a file (-f) or images: `slipway pods run --help` has examples"
        raise InvalidArgumentError(message)
    path = arguments.file
    pod = podfile.read(path, arguments.run_dir) if path else podfile.of_images(arguments)
    async with node(arguments.run_dir) as on:
        await _refuse_taken(on, pod)
        wanted = [_request(pod, config) for config in pod.containers]
        for request in wanted:
            await name_images(on, request, MISSING)
        sys.stdout.write(f"{await _run(on, pod, wanted)}\n")
    return 0


async def _refuse_taken(on: Node, pod: podfile.Pod) -> None:
    name, namespace = pod.sandbox.metadata.name, pod.sandbox.metadata.namespace
    if any((p.metadata.name, p.metadata.namespace) == (name, namespace) for p in await on.pods()):
        message = f"a pod {name!r} exists: choose another name, or `slipway pods rm {name}` first"
        raise AlreadyExistsError(message)


def _request(pod: podfile.Pod, config: cri.ContainerConfig) -> pb.CreateContainerRequest:
    return pb.CreateContainerRequest(
        request=cri.CreateContainerRequest(config=config, sandbox_config=pod.sandbox)
    )


async def _run(on: Node, pod: podfile.Pod, wanted: list[pb.CreateContainerRequest]) -> str:
    Path(pod.sandbox.log_directory).mkdir(parents=True, mode=0o750, exist_ok=True)
    sandbox = cri.RunPodSandboxRequest(config=pod.sandbox, runtime_handler=pod.handler)
    pod_id = await run_sandbox(on, pb.RunSandboxRequest(request=sandbox))
    nicknames.remember(pod_id, pod.sandbox.metadata.name)
    try:
        made = []
        for request in wanted:
            request.request.pod_sandbox_id = pod_id
            made.append((await on.backend.CreateContainer(request)).container_id)
            nicknames.remember(made[-1], request.request.config.metadata.name)
        for container_id in made:
            await on.runtime.StartContainer(cri.StartContainerRequest(container_id=container_id))
    except BaseException:
        async with asyncio.timeout(TIMEOUT_S):
            await remove_pod(on, pod_id, pod.sandbox.metadata.uid)
        raise
    return pod_id


async def stop(arguments: Namespace) -> int:
    """Stop pods, with all their containers."""

    async def act(on: Node, name: str) -> None:
        request = cri.StopPodSandboxRequest(pod_sandbox_id=(await on.pod(name)).id)
        await on.runtime.StopPodSandbox(request)

    return await each(arguments.run_dir, arguments.pod, act)


async def rm(arguments: Namespace) -> int:
    """Remove pods, with all their containers."""

    async def act(on: Node, name: str) -> None:
        found = await on.pod(name)
        if found.state == cri.SANDBOX_READY and not arguments.force:
            message = f"pod {name!r} is ready: stop it first, or give --force"
            raise FailedPreconditionError(message)
        if OWNER in found.labels:
            await remove_pod(on, found.id, found.metadata.uid)
        else:  # its logs are its maker's
            await on.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=found.id))

    return await each(arguments.run_dir, arguments.pod, act)
