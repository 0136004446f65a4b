"""The processes of a container, with the node's process ids, from /proc. Blocking."""

import os
from pathlib import Path
from typing import Any

from opsd import redact

MAX_PROCESSES = 500
MAX_COMMAND = 400
MAX_READ_BYTES = 4096
"""Of a command line, which may have megabytes."""
PROC = Path("/proc")


def read(container_id: str, init: int) -> list[dict[str, Any]]:
    """The processes below a container's init, or in a cgroup of its id; nothing when it does not run."""
    found = []
    for pid in sorted(int(name) for name in os.listdir(PROC) if name.isdecimal()):  # noqa: PTH208 - ten times quicker
        try:
            # both versions and drivers name a cgroup by the id
            if pid == init or container_id in (PROC / str(pid) / "cgroup").read_text():
                found.append(_process(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        if len(found) >= MAX_PROCESSES:
            break
    return found


def _process(pid: int) -> dict[str, Any]:
    path = PROC / str(pid)
    name, _, rest = (path / "stat").read_text(errors="replace").partition("(")[2].rpartition(")")
    fields = rest.split()
    with (path / "cmdline").open("rb", buffering=0) as file:
        command = file.read(MAX_READ_BYTES).rstrip(b"\0").split(b"\0")
    shown = " ".join(redact.words(word.decode(errors="replace") for word in command))
    return {
        "pid": pid,
        "parent": int(fields[1]),
        "state": fields[0],
        "uid": path.stat().st_uid,
        "threads": int(fields[17]),
        "cpu_s": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
        "memory": int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        "command": (shown or f"[{name}]")[:MAX_COMMAND],
    }
