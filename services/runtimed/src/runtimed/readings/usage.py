"""What a container's cgroup says about its use of the machine; reads files only, and few."""

import errno

import msgspec

from common.clock import now_ns
from runtimed.oci.cgroups import V2, CgroupPlan
from runtimed.readings.files import PressureStats, number, pressure, read, table

V1_UNLIMITED = 1 << 62  # v1 writes the largest multiple of a page that fits 63 bits


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
        return _read_v2(plan.dirs[""], plan.leaf) if plan.version == V2 else _read_v1(plan.dirs)
    except (FileNotFoundError, KeyError):
        return None
    except OSError as error:
        if error.errno == errno.ENODEV:  # removed between open and read
            return None
        raise


def _read_v2(directory: str, leaf: str) -> CgroupStats:
    cpu = table(f"{directory}/cpu.stat")
    memory = table(f"{directory}/memory.stat")
    usage = number(f"{directory}/memory.current") or 0
    limit = number(f"{leaf}/memory.max")
    swap = number(f"{directory}/memory.swap.current", missing=0) or 0
    swap_limit = number(f"{leaf}/memory.swap.max")
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
        cpu_psi=pressure(f"{directory}/cpu.pressure"),
        memory_psi=pressure(f"{directory}/memory.pressure"),
        io_psi=pressure(f"{directory}/io.pressure"),
    )


def _read_v1(dirs: dict[str, str]) -> CgroupStats:
    directory = dirs["memory"]
    memory = table(f"{directory}/memory.stat")
    usage = number(f"{directory}/memory.usage_in_bytes") or 0
    both = number(f"{directory}/memory.memsw.usage_in_bytes", missing=usage) or usage
    limit = _finite(memory.get("hierarchical_memory_limit"))
    both_limit = _finite(memory.get("hierarchical_memsw_limit"))
    working_set = max(0, usage - memory.get("total_inactive_file", 0))
    counted = dirs.get("pids") or directory
    return CgroupStats(
        timestamp_ns=now_ns(),
        cpu_usage_ns=number(f"{dirs['cpuacct']}/cpuacct.usage") or 0,
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


def _finite(limit: int | None) -> int | None:
    return None if limit is None or limit >= V1_UNLIMITED else limit


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else max(0, limit - used)


def _process_count(directory: str) -> int:
    try:
        return number(f"{directory}/pids.current") or 0
    except FileNotFoundError:
        return len(read(f"{directory}/cgroup.procs").split())
