"""wait, top: the processes of running containers."""

import os
import pwd
import sys
from argparse import Namespace
from contextlib import AsyncExitStack
from pathlib import Path

from common.errors import FailedPreconditionError
from slipway.connect import node
from slipway.containers.ending import final_code
from slipway.containers.hold import kept
from slipway.output import render


async def wait(arguments: Namespace) -> int:
    """Print each container's exit code when it has ended, in the order they were named."""
    async with node(arguments.run_dir) as on, AsyncExitStack() as held:
        ids = [(await on.container(name)).id for name in arguments.container]
        for container_id in ids:
            await held.enter_async_context(kept(on, container_id))
        for container_id in ids:
            code = await final_code(on, container_id)
            sys.stdout.write(f"{code}\n")
            sys.stdout.flush()
    return 0


async def top(arguments: Namespace) -> int:
    """List the processes in a container's cgroup, with the node's process ids."""
    async with node(arguments.run_dir) as on:
        container_id = (await on.container(arguments.container)).id
    found = _processes(container_id)
    if not found:
        raise _not_running(arguments.container)
    headings = ("UID", "PID", "PPID", "STATE", "RSS", "TIME", "COMMAND")
    if arguments.report == "json":
        render.document([dict(zip(map(str.lower, headings), row, strict=True)) for row in found])
        return 0
    rows = [(*row[:4], render.size(int(row[4])), row[5], row[6]) for row in found]
    render.table(headings, rows)
    return 0


Row = tuple[str, int, int, str, int, str, str]


def _processes(container_id: str) -> list[Row]:
    # By the id in its cgroup's path: no cgroup need be mounted here, and both versions and drivers name it so.
    found = []
    for path in sorted(Path("/proc").glob("[0-9]*"), key=lambda p: int(p.name)):
        try:
            if container_id in (path / "cgroup").read_text():
                found.append(_row(path))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
    return found


def _row(path: Path) -> Row:
    name, _, rest = (path / "stat").read_text(errors="replace").partition("(")[2].rpartition(")")
    fields = rest.split()
    ticks = int(fields[11]) + int(fields[12])
    minutes, seconds = divmod(ticks // os.sysconf("SC_CLK_TCK"), 60)
    words = (path / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    resident = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return (
        _user(path.stat().st_uid),
        int(path.name),
        int(fields[1]),
        fields[0],
        resident,
        f"{minutes}:{seconds:02}",
        words or f"[{name}]",
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _not_running(name: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"container {name!r} does not run: `slipway ps -a` shows how it ended")
