"""stop, rm."""

from argparse import Namespace

from common.api.cri.v1 import api_pb2 as cri
from common.errors import FailedPreconditionError
from slipway.connect import Node
from slipway.containers import stopping
from slipway.containers.batch import each
from slipway.containers.removal import remove
from slipway.options.signals import signal_number


async def stop(arguments: Namespace) -> int:
    """Stop containers, with a grace period."""
    signal = signal_number(arguments.signal) if arguments.signal else 0

    async def act(on: Node, name: str) -> None:
        await stopping.stop(on, (await on.container(name)).id, signal, arguments.time)

    return await each(arguments.run_dir, arguments.container, act)


async def rm(arguments: Namespace) -> int:
    """Remove containers."""

    async def act(on: Node, name: str) -> None:
        found = await on.container(name)
        if found.state == cri.CONTAINER_RUNNING and not arguments.force:
            message = f"container {name!r} runs: stop it first, or give --force"
            raise FailedPreconditionError(message)
        await remove(on, found.id, found.pod_sandbox_id)

    return await each(arguments.run_dir, arguments.container, act)
