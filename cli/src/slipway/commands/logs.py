"""logs: a container's output, from its log file."""

import sys
from argparse import Namespace
from collections import deque
from collections.abc import Callable
from pathlib import Path

import anyio

from common.api.cri.v1 import api_pb2 as cri
from common.crilog import Record
from common.errors import InvalidArgumentError, NotFoundError
from slipway.connect import Node, node
from slipway.options.moments import moment
from slipway.output import logfile, render

POLL_S = 0.1


async def logs(arguments: Namespace) -> int:
    """Print a container's output, and follow it until it ends."""
    tail = _lines(arguments.tail)
    since = moment("--since", arguments.since) if arguments.since else ""
    until = moment("--until", arguments.until) if arguments.until else ""
    async with node(arguments.run_dir) as on:
        container_id = (await on.container(arguments.container)).id
        status = await _status(on, container_id)
        path = status.log_path
        if not Path(path).exists() and status.state != cri.CONTAINER_CREATED:  # which said nothing yet
            message = f"container {arguments.container!r} has no log file {path!r}: was that removed?"
            raise NotFoundError(message)
        log = logfile.LogFile(path)
        within = (record for record in log.records() if _is_within(record, since, until))
        records = within if tail is None else deque(within, maxlen=tail)
        plain = sys.stdout.isatty() and not arguments.raw
        for record in records:
            logfile.show(record, timestamps=arguments.timestamps, plain=plain)
        logfile.flush()
        if arguments.follow:

            def more() -> None:
                for record in log.records():
                    if _is_within(record, since, until):
                        logfile.show(record, timestamps=arguments.timestamps, plain=plain)
                logfile.flush()

            await _follow(on, container_id, more, until)
        if plain:
            sys.stdout.write(render.PLAIN)  # a colour that it left on is not ours
    return 0


def _lines(text: str) -> int | None:
    """The number of --tail; None for all."""
    if text in ("all", "-1"):
        return None
    if not (text.isascii() and text.isdecimal()):
        message = f"--tail {text!r}: want a number of lines, or all"
        raise InvalidArgumentError(message)
    return int(text)


def _is_within(record: Record, since: str, until: str) -> bool:
    """Whether it was written then; its time is compared as text, of which all have the same form."""
    at = record.at[: len("2026-01-31T12:00:00.000000000")].decode(errors="replace")
    return (not since or at >= since) and (not until or at < until)


async def _follow(on: Node, container_id: str, more: Callable[[], None], until: str) -> None:
    """Show more of it until it ends, or up to then."""
    ended = False
    while not ended:
        try:
            # Asked before the reading: what was written before the end is then read.
            ended = (await _status(on, container_id)).state != cri.CONTAINER_RUNNING
        except NotFoundError:
            ended = True
        ended |= bool(until) and moment("now", "0s") >= until
        more()
        if not ended:
            await anyio.sleep(POLL_S)


async def _status(on: Node, container_id: str) -> cri.ContainerStatus:
    request = cri.ContainerStatusRequest(container_id=container_id)
    answer: cri.ContainerStatusResponse = await on.runtime.ContainerStatus(request)
    return answer.status
