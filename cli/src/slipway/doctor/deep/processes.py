"""Processes that a node's services have started, by what they were started with; also those that nothing knows any more."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PARENTS = ("imaged", "snapshotd", "shimd", "runtimed", "slipway-shim")
"""Whose children are theirs to end."""
_PLUGIN = b"CNI_COMMAND="
_KEEPER = b"snapshotd.lazy."


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process that names a directory of the node."""

    pid: int
    parent: int
    began: int
    """In ticks since the boot."""
    name: str
    is_plugin: bool
    """Of CNI."""
    is_keeper: bool
    """Serves a layer while its bytes come."""


def started(run_dir: Path, data_dir: Path) -> dict[int, Process]:
    """Those whose command line, or a CNI plugin's environment, names what is a service's alone; without a terminal. Blocking."""
    run, data = re.escape(os.fsencode(run_dir)), re.escape(os.fsencode(data_dir))
    place = re.compile(rb"(?<![\w/.-])(%s/(imaged|snapshotd|shimd|runtimed)|%s/snapshotd)[/\0]" % (run, data))
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (process := _look(entry.path, place)):
            found[process.pid] = process
    return found


def unaccounted(found: dict[int, Process], known: set[int], zygote: int) -> Iterator[Process]:
    """Those that descend from nothing that is known, still there. Blocking.

    Args:
        found: all of the node.
        known: shims and pauses with a directory, and what is in containers.
        zygote: the present one's pid; the youngest of its children waits to be a shim.
    """
    children = [process for process in found.values() if process.parent == zygote]
    ready = max(children, key=lambda process: (process.began, process.pid), default=None)
    known = known | {zygote} | ({ready.pid} if ready else set())
    for process in found.values():
        if not process.is_keeper and not _is_accounted(process, found, known, zygote):
            fields = _stat(f"/proc/{process.pid}")
            if fields and int(fields[19]) == process.began:
                yield process


def _is_accounted(process: Process, found: dict[int, Process], known: set[int], zygote: int) -> bool:
    while process.pid not in known:
        if process.parent == zygote:
            return False
        if process.parent not in found:
            return (
                process.parent in known or _read(f"/proc/{process.parent}/comm").decode().strip() in _PARENTS
            )
        process = found[process.parent]
    return True


def _look(path: str, place: re.Pattern[bytes]) -> Process | None:
    command = _read(f"{path}/cmdline")
    is_plugin = False
    if not command:
        return None  # the kernel's, or a zombie
    if not place.search(command):
        environment = _read(f"{path}/environ")
        is_plugin = _PLUGIN in environment and bool(place.search(environment))
        if not is_plugin:
            return None
    fields = _stat(path)
    if not fields or fields[4] != "0":  # somebody looks into such a directory
        return None
    return Process(
        pid=int(path.rpartition("/")[2]),
        parent=int(fields[1]),
        began=int(fields[19]),
        name=_read(f"{path}/comm").decode(errors="replace").strip(),
        is_plugin=is_plugin,
        is_keeper=_KEEPER in command,
    )


def _stat(path: str) -> list[str]:
    """Fields from the state on (proc(5), 3); none of a process that has ended."""
    fields = _read(f"{path}/stat").decode(errors="replace").rpartition(")")[2].split()
    return fields if fields and fields[0] not in ("Z", "X") else []


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a thousand files of the kernel
            return file.read()
    except OSError:
        return b""
