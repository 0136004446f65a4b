"""The files of a cgroup: a number, a table, a pressure report."""

import os
from contextlib import suppress

import msgspec

MAX_FILE_BYTES = 1 << 16
# Files that a kernel without swap accounting, or the root cgroup, lacks.
OPTIONAL = (
    *("memory.memsw.usage_in_bytes", "memory.memsw.limit_in_bytes"),
    *("memory.swap.current", "memory.swap.max", "memory.max"),
)


class Pressure(msgspec.Struct, frozen=True):
    """One line of a PSI file: averages in percent, total in microseconds."""

    total_us: int = 0
    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0


class PressureStats(msgspec.Struct, frozen=True):
    """A resource's pressure: some or all tasks were stalled."""

    some: Pressure
    full: Pressure


def read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, MAX_FILE_BYTES).decode("ascii", "replace")
    finally:
        os.close(fd)


def table(path: str) -> dict[str, int]:
    fields = read(path).split()
    return dict(zip(fields[::2], map(int, fields[1::2]), strict=False))


def number(path: str, missing: int | None = None) -> int | None:
    """A file of one number; None for "max"."""
    try:
        text = read(path).strip()
    except FileNotFoundError:
        if path.endswith(OPTIONAL):
            return missing
        raise
    return None if text == "max" else int(text)


def tasks(directory: str, name: str = "cgroup.procs") -> list[str]:
    """Processes or threads of a cgroup and of those below it: execs may have cgroups of their own.

    What is below may go meanwhile, or be threaded, whose processes are listed above it alone.
    """
    found = read(f"{directory}/{name}").split()
    with os.scandir(directory) as entries:
        below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    for path in below:
        with suppress(OSError):
            found += tasks(path, name)
    return found


def pressure(path: str) -> PressureStats | None:
    try:
        lines = read(path).splitlines()
    except OSError:
        return None  # PSI is not in this kernel, or off
    found = {line.split(" ", 1)[0]: _pressure_line(line) for line in lines}
    return PressureStats(some=found.get("some", Pressure()), full=found.get("full", Pressure()))


def _pressure_line(line: str) -> Pressure:
    values = dict(part.split("=", 1) for part in line.split()[1:])
    return Pressure(
        total_us=int(values["total"]),
        avg10=float(values["avg10"]),
        avg60=float(values["avg60"]),
        avg300=float(values["avg300"]),
    )
