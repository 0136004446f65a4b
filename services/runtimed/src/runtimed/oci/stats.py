"""What a container's cgroup says about its use of the machine; reads files only, and few."""

import msgspec

from runtimed.oci.cgroups import CgroupPlan


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
    """Read a cgroup; None when it is gone."""
    raise NotImplementedError
