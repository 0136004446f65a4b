"""pods run, pods stop, pods rm."""

import asyncio
import sys
from argparse import Namespace
from pathlib import Path

from common.api.cri.v1 import api_pb2 as cri
from common.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError
from slipway import podfile
from slipway.connect import OWNER, TIMEOUT_S, Node, node
from slipway.each import each
from slipway.making import image_id
from slipway.removal import remove_pod


async def run(arguments: Namespace) -> int:
    """Run a pod and its containers, all of it or nothing; print its id."""
    if bool(arguments.file) == bool(arguments.images):
        message = "pods run: want a file (-f) or images: `slipway pods run --help` has examples"
        raise InvalidArgumentError(message)
    path = arguments.file
    pod = podfile.read(path, arguments.run_dir) if path else podfile.of_images(arguments)
    async with node(arguments.run_dir) as on:
        await _refuse_taken(on, pod)
        for config in pod.containers:
            config.image.image = await image_id(on, config.image.user_specified_image)
        sys.stdout.write(f"{await _run(on, pod)}\n")
    return 0


async def _refuse_taken(on: Node, pod: podfile.Pod) -> None:
    found = (await on.runtime.ListPodSandbox(cri.ListPodSandboxRequest())).items
    name, namespace = pod.sandbox.metadata.name, pod.sandbox.metadata.namespace
    if any((p.metadata.name, p.metadata.namespace) == (name, namespace) for p in found):
        message = f"a pod {name!r} exists: choose another name, or `slipway pods rm {name}` first"
        raise AlreadyExistsError(message)


async def _run(on: Node, pod: podfile.Pod) -> str:
    Path(pod.sandbox.log_directory).mkdir(parents=True, mode=0o750, exist_ok=True)
    wanted = cri.RunPodSandboxRequest(config=pod.sandbox, runtime_handler=pod.handler)
    pod_id = str((await on.runtime.RunPodSandbox(wanted)).pod_sandbox_id)
    try:
        made = []
        for config in pod.containers:
            request = cri.CreateContainerRequest(
                pod_sandbox_id=pod_id, config=config, sandbox_config=pod.sandbox
            )
            made.append((await on.runtime.CreateContainer(request)).container_id)
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
