"""logs: a container's output, from its log file."""

import sys
from argparse import Namespace
from collections import deque
from pathlib import Path

import anyio

from common.api.cri.v1 import api_pb2 as cri
from common.errors import NotFoundError
from slipway import logfile, render
from slipway.connect import Node, node

POLL_S = 0.1


async def logs(arguments: Namespace) -> int:
    """Print a container's output, and follow it until it ends."""
    async with node(arguments.run_dir) as on:
        container_id = (await on.container(arguments.container)).id
        path = (await _status(on, container_id)).log_path
        if not Path(path).exists():
            message = f"container {arguments.container!r} has no log file {path!r}: was it started?"
            raise NotFoundError(message)
        log = logfile.LogFile(path)
        # With --tail 0 nothing, with -1 all.
        records = log.records() if arguments.tail < 0 else deque(log.records(), maxlen=arguments.tail)
        plain = sys.stdout.isatty() and not arguments.raw
        for record in records:
            logfile.show(record, timestamps=arguments.timestamps, plain=plain)
        logfile.flush()
        if arguments.follow:
            await _follow(on, container_id, log, timestamps=arguments.timestamps, plain=plain)
        if plain:
            sys.stdout.write(render.PLAIN)  # a colour that it left on is not ours
    return 0


async def _follow(
    on: Node, container_id: str, log: logfile.LogFile, *, timestamps: bool, plain: bool
) -> None:
    ended = False
    while not ended:
        try:
            # Asked before the reading: what was written before the end is then read.
            ended = (await _status(on, container_id)).state != cri.CONTAINER_RUNNING
        except NotFoundError:
            ended = True
        for record in log.records():
            logfile.show(record, timestamps=timestamps, plain=plain)
        logfile.flush()
        if not ended:
            await anyio.sleep(POLL_S)


async def _status(on: Node, container_id: str) -> cri.ContainerStatus:
    request = cri.ContainerStatusRequest(container_id=container_id)
    answer: cri.ContainerStatusResponse = await on.runtime.ContainerStatus(request)
    return answer.status
