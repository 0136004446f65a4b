"""kill, pause, unpause: what only runtimed offers for a container that runs."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from common.api.runtime.v1 import runtime_pb2 as pb
from slipway.connect import Node, runtimed
from slipway.containers.batch import each
from slipway.options.signals import signal_number


async def kill(arguments: Namespace) -> int:
    """Send a signal to the first process of containers."""
    number = signal_number(arguments.signal)
    return await _each(
        arguments,
        "SignalContainer",
        lambda container_id: pb.SignalContainerRequest(container_id=container_id, signal=number),
    )


async def pause(arguments: Namespace) -> int:
    """Hold every process of containers still."""
    return await _each(
        arguments, "PauseContainer", lambda container_id: pb.PauseContainerRequest(container_id=container_id)
    )


async def unpause(arguments: Namespace) -> int:
    """Let paused containers run on."""
    return await _each(
        arguments,
        "ResumeContainer",
        lambda container_id: pb.ResumeContainerRequest(container_id=container_id),
    )


async def _each(arguments: Namespace, method: str, request: Callable[[str], Any]) -> int:
    async with runtimed(arguments.run_dir) as backend:

        async def act(on: Node, name: str) -> None:
            await getattr(backend, method)(request((await on.container(name)).id))

        return await each(arguments.run_dir, arguments.container, act)
