"""wait, kill, top: the processes of running containers."""

import os
import pwd
import signal
import sys
from argparse import Namespace
from pathlib import Path

from common.errors import FailedPreconditionError, InvalidArgumentError
from slipway import render
from slipway.connect import Node, node, shim_of
from slipway.each import each
from slipway.waiting import final_code


async def wait(arguments: Namespace) -> int:
    """Print each container's exit code when it has ended, in the order they were named."""
    async with node(arguments.run_dir) as on:
        ids = [(await on.container(name)).id for name in arguments.container]
        for container_id in ids:
            code = await final_code(on, container_id)
            sys.stdout.write(f"{code}\n")
            sys.stdout.flush()
    return 0


async def kill(arguments: Namespace) -> int:
    """Send a signal to the first process of containers."""
    number = signal_number(arguments.signal)

    async def act(on: Node, name: str) -> None:
        found = await on.container(name)
        async with shim_of(arguments.run_dir, found.id) as shim:
            if shim is None:
                raise _not_running(name)
            await shim.kill(number)

    return await each(arguments.run_dir, arguments.container, act)


def signal_number(text: str) -> int:
    """The signal of this name, with or without SIG, or number.

    Raises:
        InvalidArgumentError: there is none.
    """
    word = text.upper().removeprefix("SIG")
    if word.isascii() and word.isdecimal() and 0 < int(word[:9]) <= signal.SIGRTMAX:
        return int(word)
    known = signal.Signals.__members__.get(f"SIG{word}")
    if known is None:
        message = f"--signal {text!r}: want a name such as TERM, or a number up to {int(signal.SIGRTMAX)}"
        raise InvalidArgumentError(message)
    return int(known)


async def top(arguments: Namespace) -> int:
    """List the processes in a container's cgroup, with the node's process ids."""
    async with node(arguments.run_dir) as on:
        container_id = (await on.container(arguments.container)).id
    found = _processes(container_id)
    if not found:
        raise _not_running(arguments.container)
    headings = ("UID", "PID", "PPID", "STATE", "RSS", "TIME", "COMMAND")
    if arguments.output == "json":
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
