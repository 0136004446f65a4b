"""stats: what the running containers use."""

import asyncio
import sys
from argparse import Namespace
from typing import Any

from common.api.runtime.v1 import runtime_pb2 as pb
from slipway import render
from slipway.connect import node

STATS_S = 1.0
BETWEEN_S = 0.5
"""Of two readings for one look: shorter ones tell more of the moment than of the container."""


async def stats(arguments: Namespace) -> int:
    """Show usage, once or each second; also once it takes two readings, of which CPU is the difference."""
    before: dict[str, Any] = {}
    async with node(arguments.run_dir) as on:
        if arguments.no_stream:
            first = (await on.backend.OverviewStats(pb.OverviewRequest())).stats
            before = {item.attributes.id: item for item in first}
            await asyncio.sleep(BETWEEN_S)
        while True:
            found = (await on.backend.OverviewStats(pb.OverviewRequest())).stats
            if arguments.report == "json":
                render.messages(found)
            else:
                if not arguments.no_stream and sys.stdout.isatty():
                    sys.stdout.write("\033[H\033[2J")
                rows = [_stats_row(item, before.get(item.attributes.id)) for item in found]
                render.table(("ID", "NAME", "CPU", "MEMORY", "DISK"), rows)
            if arguments.no_stream:
                return 0
            before = {item.attributes.id: item for item in found}
            await asyncio.sleep(STATS_S)


def _stats_row(item: Any, before: Any) -> tuple[str, ...]:
    cpu = f"{item.cpu.usage_nano_cores.value / 1e7:.1f}%" if item.cpu.HasField("usage_nano_cores") else "-"
    if before is not None and item.cpu.timestamp > before.cpu.timestamp:
        used = item.cpu.usage_core_nano_seconds.value - before.cpu.usage_core_nano_seconds.value
        cpu = f"{100 * used / (item.cpu.timestamp - before.cpu.timestamp):.1f}%"
    memory = render.size(item.memory.working_set_bytes.value)
    disk = render.size(item.writable_layer.used_bytes.value)
    return (item.attributes.id[:12], item.attributes.metadata.name, cpu, memory, disk)
