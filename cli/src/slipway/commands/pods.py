"""pods stop, pods rm."""

from argparse import Namespace

from common.api.cri.v1 import api_pb2 as cri
from common.errors import FailedPreconditionError
from slipway.connect import OWNER, Node
from slipway.each import each
from slipway.removal import remove_pod


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
