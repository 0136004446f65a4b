"""What a container's cgroup says about its use of the machine; reads files only, and few."""

import errno
import os

import msgspec

from common.clock import now_ns
from runtimed.oci.cgroups import CgroupPlan

V2 = 2
V1_UNLIMITED = 1 << 62  # v1 writes the largest multiple of a page that fits 63 bits
MAX_FILE_BYTES = 1 << 16
# Files that a kernel without swap accounting, or the root cgroup, lacks.
OPTIONAL = ("memory.memsw.usage_in_bytes", "memory.swap.current", "memory.swap.max", "memory.max")


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


class CgroupStats(msgspec.Struct, frozen=True, kw_only=True):
    """A reading at one moment. None where the kernel tells nothing or no limit is set."""

    timestamp_ns: int
    cpu_usage_ns: int
    usage_bytes: int
    working_set_bytes: int
    available_bytes: int | None
    rss_bytes: int
    page_faults: int
    major_page_faults: int
    swap_usage_bytes: int
    swap_available_bytes: int | None
    process_count: int
    cpu_psi: PressureStats | None = None
    memory_psi: PressureStats | None = None
    io_psi: PressureStats | None = None


def read_stats(plan: CgroupPlan) -> CgroupStats | None:
    """Read a cgroup; None when it is gone. Blocking, some ten small reads."""
    try:
        return _read_v2(plan.dirs[""]) if plan.version == V2 else _read_v1(plan.dirs)
    except (FileNotFoundError, KeyError):
        return None
    except OSError as error:
        if error.errno == errno.ENODEV:  # removed between open and read
            return None
        raise


def _read_v2(directory: str) -> CgroupStats:
    cpu = _table(f"{directory}/cpu.stat")
    memory = _table(f"{directory}/memory.stat")
    usage = _number(f"{directory}/memory.current") or 0
    limit = _number(f"{directory}/memory.max")
    swap = _number(f"{directory}/memory.swap.current", missing=0) or 0
    swap_limit = _number(f"{directory}/memory.swap.max")
    working_set = max(0, usage - memory.get("inactive_file", 0))
    return CgroupStats(
        timestamp_ns=now_ns(),
        cpu_usage_ns=cpu.get("usage_usec", 0) * 1000,
        usage_bytes=usage,
        working_set_bytes=working_set,
        available_bytes=_left(limit, working_set),
        rss_bytes=memory.get("anon", 0),
        page_faults=memory.get("pgfault", 0),
        major_page_faults=memory.get("pgmajfault", 0),
        swap_usage_bytes=swap,
        swap_available_bytes=_left(swap_limit, swap),
        process_count=_process_count(directory),
        cpu_psi=_pressure(f"{directory}/cpu.pressure"),
        memory_psi=_pressure(f"{directory}/memory.pressure"),
        io_psi=_pressure(f"{directory}/io.pressure"),
    )


def _read_v1(dirs: dict[str, str]) -> CgroupStats:
    directory = dirs["memory"]
    memory = _table(f"{directory}/memory.stat")
    usage = _number(f"{directory}/memory.usage_in_bytes") or 0
    both = _number(f"{directory}/memory.memsw.usage_in_bytes", missing=usage) or usage
    limit = _finite(memory.get("hierarchical_memory_limit"))
    both_limit = _finite(memory.get("hierarchical_memsw_limit"))
    working_set = max(0, usage - memory.get("total_inactive_file", 0))
    counted = dirs.get("pids") or directory
    return CgroupStats(
        timestamp_ns=now_ns(),
        cpu_usage_ns=_number(f"{dirs['cpuacct']}/cpuacct.usage") or 0,
        usage_bytes=usage,
        working_set_bytes=working_set,
        available_bytes=_left(limit, working_set),
        rss_bytes=memory.get("total_rss", 0),
        page_faults=memory.get("total_pgfault", 0),
        major_page_faults=memory.get("total_pgmajfault", 0),
        swap_usage_bytes=max(0, both - usage),
        swap_available_bytes=_left(both_limit, both),
        process_count=_process_count(counted),
    )


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, MAX_FILE_BYTES).decode("ascii", "replace")
    finally:
        os.close(fd)


def _table(path: str) -> dict[str, int]:
    fields = _read(path).split()
    return dict(zip(fields[::2], map(int, fields[1::2]), strict=False))


def _number(path: str, missing: int | None = None) -> int | None:
    """A file of one number; None for "max"."""
    try:
        text = _read(path).strip()
    except FileNotFoundError:
        if path.endswith(OPTIONAL):
            return missing
        raise
    return None if text == "max" else int(text)


def _finite(limit: int | None) -> int | None:
    return None if limit is None or limit >= V1_UNLIMITED else limit


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else max(0, limit - used)


def _process_count(directory: str) -> int:
    try:
        return _number(f"{directory}/pids.current") or 0
    except FileNotFoundError:
        return len(_read(f"{directory}/cgroup.procs").split())


def _pressure(path: str) -> PressureStats | None:
    try:
        lines = _read(path).splitlines()
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
