"""Having a container end, as docker's `stop` and `restart` do it."""

import asyncio
from contextlib import suppress

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import FailedPreconditionError, NotFoundError
from slipway.connect import TIMEOUT_S, Node
from slipway.containers.ending import final_code

FOREVER_S = 365 * 86400
"""What a negative time means."""


async def stop(on: Node, container_id: str, signal: int, grace_s: int) -> None:
    """End a container by its stop signal, by `signal` if that is not 0, and by SIGKILL after the time."""
    grace_s = grace_s if grace_s >= 0 else FOREVER_S
    if signal:
        with suppress(FailedPreconditionError, NotFoundError, TimeoutError):  # it ends by us, or has ended
            async with asyncio.timeout(grace_s):
                told = pb.SignalContainerRequest(container_id=container_id, signal=signal)
                await on.backend.SignalContainer(told)
                await final_code(on, container_id)
        grace_s = 0
    request = cri.StopContainerRequest(container_id=container_id, timeout=grace_s)
    await on.runtime.StopContainer(request, timeout=grace_s + TIMEOUT_S)
