"""Waiting for the end of a container."""

import asyncio

from common.api.cri.v1 import api_pb2 as cri
from slipway import exitcode
from slipway.connect import Node

POLL_S = 0.03
SETTLE_S = 5.0
"""For how long after the end runtimed may take to know of it."""


async def final_code(on: Node, container_id: str, known: int | None = None) -> int:
    """The exit code, once runtimed has it too, so that `ps` after us shows the end."""
    request = cri.ContainerStatusRequest(container_id=container_id)
    try:
        async with asyncio.timeout(SETTLE_S if known is not None else None):
            while True:
                status = (await on.runtime.ContainerStatus(request)).status
                if status.state == cri.CONTAINER_EXITED:
                    return int(status.exit_code)
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        return known if known is not None else exitcode.DAEMON
