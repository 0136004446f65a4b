"""update: other limits for containers that are there."""

from argparse import Namespace

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError
from slipway.connect import Node
from slipway.containers.batch import each
from slipway.options import limits


async def update(arguments: Namespace) -> int:
    """Apply new limits; what is not given stays as it is."""
    wanted = cri.LinuxContainerResources()
    limits.limits(wanted, arguments)
    if not wanted.ListFields():
        message = "update: no limit given: `slipway update --help` lists them"
        raise InvalidArgumentError(message)

    async def act(on: Node, name: str) -> None:
        container_id = (await on.container(name)).id
        change = cri.UpdateContainerResourcesRequest(container_id=container_id, linux=wanted)
        await on.runtime.UpdateContainerResources(change)

    return await each(arguments.run_dir, arguments.container, act)
