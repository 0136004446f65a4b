"""trace: the life of a container or pod as a waterfall, from the spans that opsd holds, or else its events."""

import re
import shutil
import sys
from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import anyio

from common.clients.opsd import ask
from common.errors import FailedPreconditionError, NotFoundError, UnavailableError
from common.events import told
from slipway.connect import nats_url, node
from slipway.output import render, waterfall

ON_THE_WAY_S = 0.8
"""Services send their spans twice a second."""
TRACE_ID = re.compile(r"[0-9a-f]{32}")
OBJECT_ID = re.compile(r"[0-9a-f]{64}")
NS_PER_MS = 1_000_000


async def trace(arguments: Namespace) -> int:
    """Print the trace of a container, of a pod, or of this id."""
    run_dir, name = arguments.run_dir, arguments.name
    object_id = "" if TRACE_ID.fullmatch(name) else await _object_id(run_dir, name)
    problem = f"no span and no event of {name!r} is held"
    found: dict[str, Any] = {"traces": [], "spans": []}
    path = f"/api/v1/containers/{object_id}/trace" if object_id else f"/api/v1/traces/{name}"
    try:
        found = ask(run_dir, path)
        if not found["spans"]:
            await anyio.sleep(ON_THE_WAY_S)
            found = ask(run_dir, path)
    except UnavailableError as exc:
        problem = exc.message
    events = await _events(run_dir, object_id) if object_id and not found["spans"] else []
    if not found["spans"] and not events:
        raise NotFoundError(problem)
    if arguments.report == "json":
        render.document(found | {"events": events})
        return 0
    columns = shutil.get_terminal_size().columns
    for line in waterfall.lines(found["spans"], columns) if found["spans"] else _lines(events):
        sys.stdout.write(line + "\n")
    return 0


async def _object_id(run_dir: str, name: str) -> str:
    """The whole id of a container or a pod by its name or the beginning of its id; of one that is gone, as it is."""
    async with node(run_dir) as on:
        try:
            return str((await on.container(name)).id)
        except NotFoundError:
            if OBJECT_ID.fullmatch(name):
                return name
        try:
            return str((await on.pod(name)).id)
        except NotFoundError as exc:
            message = f"no container or pod {name!r}: `slipway ps -a` and `slipway pods` list them; one that is gone has its whole id"
            raise NotFoundError(message) from exc


async def _events(run_dir: str, object_id: str) -> list[dict[str, Any]]:
    """What happened to it, of the events that are held."""
    from common.events import subjects
    from common.events.bus import Bus

    try:
        bus = await Bus.connect(nats_url(run_dir), attempts=2)
    except (UnavailableError, FailedPreconditionError):
        return []
    found = []
    try:
        held: AsyncGenerator[Any, None] = bus.held(subjects.pattern(object_id=object_id), sequence=1)
        async with aclosing(held) as envelopes:
            async for _, envelope in envelopes:
                if envelope.fields()["id"] != object_id:  # a command in it
                    continue
                found.append({"at_ns": envelope.at_ns, "source": envelope.source, "event": envelope.fields()})
    finally:
        await bus.close()
    return found


def _lines(events: list[dict[str, Any]]) -> list[str]:
    """A line for each event, with the time since the first."""
    start = events[0]["at_ns"]
    lines = ["no spans are held of it; what is left are its events:"]
    for each in events:
        since = waterfall.span_of_time((each["at_ns"] - start) / NS_PER_MS)
        event = each["event"]
        lines.append(render.clean(f"{since:>10}  {told.kind(event):<26} {told.facts(event)}".rstrip()))
    return lines
