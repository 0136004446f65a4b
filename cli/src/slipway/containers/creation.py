"""Making a container in a pod of its own, from the options of `run` and `create`."""

from argparse import Namespace
from contextlib import suppress
from pathlib import Path

import anyio

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import AlreadyExistsError, SlipwayError
from slipway.connect import TIMEOUT_S, Node, log_root
from slipway.containers.images import resolve, resolve_mounted
from slipway.containers.removal import remove_pod
from slipway.options import request
from slipway.output import nicknames


async def make(on: Node, arguments: Namespace, *, starts: bool) -> tuple[str, str]:
    """Pull the image when it is not here, and make sandbox and container; returns their ids.

    Args:
        on: its node.
        arguments: the options.
        starts: the caller starts it at once; if it dies before, what was made with --rm goes.

    Raises:
        InvalidArgumentError: an option; nothing was made or pulled.
        AlreadyExistsError: a container has this name.
    """
    name = request.name_of(arguments)
    config = request.sandbox(arguments, name, log_root(arguments.run_dir))
    wanted = pb.CreateContainerRequest(extras=request.extras(arguments))
    wanted.request.config.CopyFrom(request.container(arguments, name, arguments.image))
    wanted.request.sandbox_config.CopyFrom(config)
    await _refuse_taken(on, name)
    await name_images(on, wanted, arguments.pull)
    pod = pb.RunSandboxRequest(
        request=cri.RunPodSandboxRequest(config=config, runtime_handler=arguments.handler),
        isolated=arguments.network == "none",
        remove_ended=arguments.rm,
        remove_unstarted=arguments.rm and starts,
        sole_name=True,
    )
    return await _create(on, pod, wanted)


async def _refuse_taken(on: Node, name: str) -> None:
    if any(c.metadata.name == name for c in await on.containers()):
        message = f"a container {name!r} exists: choose another --name, or `slipway rm {name}` first"
        raise AlreadyExistsError(message)


async def name_images(on: Node, wanted: pb.CreateContainerRequest, pull: str) -> None:
    """Put the images into a request, pulled by the rule of --pull."""
    config = wanted.request.config
    wanted.image.CopyFrom(await resolve(on, config.image.user_specified_image, pull))
    config.image.image = wanted.image.id
    for name, image in (await resolve_mounted(on, config.mounts, pull)).items():
        wanted.mount_images[name].CopyFrom(image)


async def _create(on: Node, pod: pb.RunSandboxRequest, wanted: pb.CreateContainerRequest) -> tuple[str, str]:
    """The sandbox and the container; nothing of them when one fails."""
    config = pod.request.config
    Path(config.log_directory).mkdir(parents=True, mode=0o750, exist_ok=True)
    sandbox_id = ""
    try:
        sandbox_id = wanted.request.pod_sandbox_id = await run_sandbox(on, pod)
        nicknames.remember(sandbox_id, config.metadata.name)
        container_id = (await on.backend.CreateContainer(wanted)).container_id
        nicknames.remember(container_id, config.metadata.name)
    except BaseException:
        with anyio.CancelScope(shield=True), anyio.move_on_after(TIMEOUT_S):
            await remove_pod(on, sandbox_id, config.metadata.uid)
        raise
    return sandbox_id, container_id


async def run_sandbox(on: Node, pod: pb.RunSandboxRequest) -> str:
    """Make a sandbox and return its id; who is interrupted meanwhile leaves none.

    Raises:
        AlreadyExistsError: another has its name.
    """
    try:
        made = await on.backend.RunSandbox(pod)
    except AlreadyExistsError as exc:  # somebody was faster: no container of this name was there a moment ago
        message = f"{exc.message}: choose another --name, or `slipway pods rm` it first"
        raise AlreadyExistsError(message) from exc
    except SlipwayError:
        raise
    except BaseException:  # it is made to its end all the same: who asks again has its id
        with anyio.CancelScope(shield=True), anyio.move_on_after(TIMEOUT_S), suppress(SlipwayError):
            made = await on.backend.RunSandbox(pod)
            await remove_pod(on, made.pod_sandbox_id, pod.request.config.metadata.uid)
        raise
    return str(made.pod_sandbox_id)
