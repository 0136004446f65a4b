"""stats: what containers use."""

import asyncio
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from common.api.runtime.v1 import runtime_pb2 as pb
from slipway.connect import Node, node
from slipway.output import render

STATS_S = 1.0
BETWEEN_S = 0.5
"""Of two readings for one look: shorter ones tell more of the moment than of the container."""
HEADINGS = ("ID", "NAME", "CPU", "MEMORY", "LIMIT", "MEMORY %", "DISK")


async def stats(arguments: Namespace) -> int:
    """Show usage, once or each second; also once it takes two readings, of which CPU is the difference."""
    before: dict[str, Any] = {}
    async with node(arguments.run_dir) as on:
        chosen = {(await on.container(name)).id for name in arguments.container}
        if arguments.no_stream:
            before = {item.attributes.id: item for item in await _running(on, chosen)}
            await asyncio.sleep(BETWEEN_S)
        while True:
            found = await _running(on, chosen)
            if arguments.report == "json":
                render.messages(found)
            else:
                rows = [
                    _row(item, before.get(item.attributes.id), whole=arguments.no_trunc) for item in found
                ]
                if chosen or arguments.all:
                    rows += await _still(on, chosen, {item.attributes.id for item in found}, arguments)
                if not arguments.no_stream and sys.stdout.isatty():
                    sys.stdout.write("\033[H\033[2J")
                render.table(HEADINGS, rows)
            if arguments.no_stream:
                return 0
            sys.stdout.flush()  # a pipe would get nothing until several kilobytes are there
            before = {item.attributes.id: item for item in found}
            await asyncio.sleep(STATS_S)


async def _running(on: Node, chosen: set[str]) -> list[Any]:
    found = (await on.backend.OverviewStats(pb.OverviewRequest())).stats
    return [item for item in found if not chosen or item.attributes.id in chosen]


async def _still(
    on: Node, chosen: set[str], running: set[str], arguments: Namespace
) -> list[tuple[str, ...]]:
    """Those that do not run, and so use nothing but what they wrote."""
    return [
        (_short(c.id, whole=arguments.no_trunc), c.metadata.name, *["-"] * 5)
        for c in await on.containers()
        if c.id not in running and (not chosen or c.id in chosen)
    ]


def _row(item: Any, before: Any, *, whole: bool) -> tuple[str, ...]:
    cpu = f"{item.cpu.usage_nano_cores.value / 1e7:.1f}%" if item.cpu.HasField("usage_nano_cores") else "-"
    if before is not None and item.cpu.timestamp > before.cpu.timestamp:
        used = item.cpu.usage_core_nano_seconds.value - before.cpu.usage_core_nano_seconds.value
        cpu = f"{100 * used / (item.cpu.timestamp - before.cpu.timestamp):.1f}%"
    memory = item.memory.working_set_bytes.value
    # without a limit of its own there is the node's memory, as docker has it
    has_limit = item.memory.HasField("available_bytes")
    limit = memory + item.memory.available_bytes.value if has_limit else _node_bytes()
    return (
        _short(item.attributes.id, whole=whole),
        item.attributes.metadata.name,
        cpu,
        render.size(memory),
        render.size(limit),
        f"{100 * memory / limit:.1f}%",
        render.size(item.writable_layer.used_bytes.value),
    )


def _short(object_id: str, *, whole: bool) -> str:
    return object_id if whole else object_id[:12]


def _node_bytes() -> int:
    """All memory of this machine."""
    kilobytes = Path("/proc/meminfo").read_text().partition("MemTotal:")[2].split()[0]
    return int(kilobytes) * 1024
