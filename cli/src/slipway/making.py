"""Making a container in a pod of its own, from the options of `run` and `create`."""

from argparse import Namespace
from pathlib import Path

import anyio

from common.api.cri.v1 import api_pb2 as cri
from common.errors import AlreadyExistsError
from slipway import request
from slipway.commands.images import fetch
from slipway.connect import TIMEOUT_S, Node, log_root
from slipway.logins import auth_of
from slipway.removal import remove_pod


async def make(on: Node, arguments: Namespace) -> tuple[str, str]:
    """Pull the image when it is not here, and make sandbox and container; returns their ids.

    Raises:
        InvalidArgumentError: an option; nothing was made or pulled.
        AlreadyExistsError: a container has this name.
    """
    name = request.name_of(arguments)
    config = request.sandbox(arguments, name, log_root(arguments.run_dir))
    request.container(arguments, name, arguments.image)  # refuses wrong options before anything is made
    await _refuse_taken(on, name)
    return await _create(on, arguments, name, config, await image_id(on, arguments.image))


async def _refuse_taken(on: Node, name: str) -> None:
    found = (await on.runtime.ListContainers(cri.ListContainersRequest())).containers
    if any(c.metadata.name == name for c in found):
        message = f"a container {name!r} exists: choose another --name, or `slipway rm {name}` first"
        raise AlreadyExistsError(message)


async def image_id(on: Node, reference: str) -> str:
    """The image of this name, pulled when it is not here."""
    spec = cri.ImageSpec(image=reference)
    found = await on.images.ImageStatus(cri.ImageStatusRequest(image=spec))
    if found.HasField("image"):
        return str(found.image.id)
    return (await fetch(on.run_dir, reference, auth_of(reference, ""))).id


async def _create(
    on: Node, arguments: Namespace, name: str, config: cri.PodSandboxConfig, image: str
) -> tuple[str, str]:
    """The sandbox and the container; nothing of them when one fails."""
    Path(config.log_directory).mkdir(parents=True, mode=0o750, exist_ok=True)
    sandbox_id = ""
    try:
        wanted = cri.RunPodSandboxRequest(config=config, runtime_handler=arguments.handler)
        sandbox_id = (await on.runtime.RunPodSandbox(wanted)).pod_sandbox_id
        create = cri.CreateContainerRequest(
            pod_sandbox_id=sandbox_id,
            config=request.container(arguments, name, image),
            sandbox_config=config,
        )
        container_id = (await on.runtime.CreateContainer(create)).container_id
    except BaseException:
        with anyio.CancelScope(shield=True), anyio.move_on_after(TIMEOUT_S):
            await remove_pod(on, sandbox_id, config.metadata.uid)
        raise
    return sandbox_id, container_id
