"""Containers that go by themselves when they have ended: held back until we have read all of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskStatus

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import NotFoundError, SlipwayError, UnavailableError
from slipway.connect import TIMEOUT_S, Node

AGAIN_S = 0.2
POLL_S = 0.02
GONE_S = 20.0
"""How long a removal may take that we wait for."""


@asynccontextmanager
async def kept(on: Node, container_id: str) -> AsyncIterator[None]:
    """Within the block a container does not go, also when it has ended, or runtimed starts anew."""
    failed: SlipwayError | None = None
    async with anyio.create_task_group() as group:
        try:
            await group.start(_keep, on, container_id)
            yield
        except SlipwayError as exc:  # the group would wrap it
            failed = exc
        finally:
            group.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def _keep(on: Node, container_id: str, *, task_status: TaskStatus[None]) -> None:
    held = False
    while True:
        try:
            async for _ in on.backend.KeepContainer(pb.KeepContainerRequest(container_id=container_id)):
                if not held:
                    task_status.started()
                held = True
        except NotFoundError:  # it was removed by somebody; who asks for it next is told
            if not held:
                task_status.started()
            return
        except UnavailableError:
            if not held:
                raise
        await anyio.sleep(AGAIN_S)


async def until_gone(on: Node, sandbox_id: str) -> None:
    """Wait until a pod is removed, so that `ps` after us does not show it."""
    request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
    try:
        async with asyncio.timeout(GONE_S):
            while True:
                await on.runtime.PodSandboxStatus(request, timeout=TIMEOUT_S)
                await asyncio.sleep(POLL_S)
    except (NotFoundError, TimeoutError):
        return
