"""Metrics that the files of a cgroup tell. Blocking; some twenty small reads for each cgroup."""

import errno
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from runtimed.oci.cgroups import V2, CgroupPlan, cpu_shares
from runtimed.readings.families import Sample
from runtimed.readings.files import pressure, read, table
from runtimed.readings.usage import V1_UNLIMITED

T = TypeVar("T")
NS_PER_S, US_PER_S = 1_000_000_000, 1_000_000
_HUGE = re.compile(r"hugetlb\.(\d+[KMG]B)\.(?:usage_in_bytes|current)")


def samples(plan: CgroupPlan) -> list[Sample]:
    """All that a cgroup tells; nothing when it is gone."""
    try:
        return list(_v2(plan.dirs[""], plan.leaf) if plan.version == V2 else _v1(plan.dirs))
    except (FileNotFoundError, KeyError):
        return []
    except OSError as error:
        if error.errno == errno.ENODEV:  # removed between open and read
            return []
        raise


def _v2(directory: str, leaf: str) -> Iterator[Sample]:
    cpu, memory = table(f"{directory}/cpu.stat"), table(f"{directory}/memory.stat")
    events = _optional(table, f"{directory}/memory.events") or {}
    throttled = _optional(table, f"{leaf}/cpu.stat") or cpu  # where the quota is met: it is not added up
    yield from _cpu(
        cpu["usage_usec"] * 1000,
        cpu.get("user_usec", 0) * 1000,
        cpu.get("system_usec", 0) * 1000,
        throttled.get("throttled_usec", 0) * 1000,
        throttled,
    )
    usage = _value(f"{directory}/memory.current")
    yield from _memory(
        usage=usage,
        working_set=usage - memory.get("inactive_file", 0),
        peak=_value(f"{directory}/memory.peak") or usage,
        swap=_value(f"{directory}/memory.swap.current"),
        kernel=memory.get("kernel", memory.get("slab", 0) + memory.get("kernel_stack", 0)),
        failures=events.get("max", 0),
        cache=memory.get("file", 0),
        mapped=memory.get("file_mapped", 0),
        rss=memory.get("anon", 0),
    )
    yield from _faults("hierarchy", memory.get("pgfault", 0), memory.get("pgmajfault", 0))
    own = _optional(table, f"{leaf}/memory.stat.local") or memory
    yield from _faults("container", own.get("pgfault", 0), own.get("pgmajfault", 0))
    yield Sample("container_oom_events_total", events.get("oom_kill", 0))
    quota, period = (_optional(read, f"{leaf}/cpu.max") or read(f"{directory}/cpu.max")).split()
    weight = _value(f"{leaf}/cpu.weight") or 1
    yield from _spec(cpu_shares(weight), -1 if quota == "max" else int(quota), int(period))
    yield from _limits(
        _value(f"{leaf}/memory.max"),
        _value(f"{leaf}/memory.low"),
        _value(f"{leaf}/memory.swap.max"),
    )
    yield from _io_v2(directory)
    for name in ("cpu", "memory", "io"):
        found = pressure(f"{directory}/{name}.pressure")
        if found is not None:
            seconds = {"stalled": found.full.total_us, "waiting": found.some.total_us}
            for kind, total_us in seconds.items():
                yield Sample(f"container_pressure_{name}_{kind}_seconds_total", total_us // US_PER_S)
    yield from _huge_pages(directory, "current", None)


def _v1(dirs: dict[str, str]) -> Iterator[Sample]:
    cpu, directory = table(f"{dirs['cpu']}/cpu.stat"), dirs["memory"]
    memory = table(f"{directory}/memory.stat")
    yield from _cpu(
        _value(f"{dirs['cpuacct']}/cpuacct.usage"),
        _value(f"{dirs['cpuacct']}/cpuacct.usage_user"),
        _value(f"{dirs['cpuacct']}/cpuacct.usage_sys"),
        cpu.get("throttled_time", 0),
        cpu,
    )
    usage = _value(f"{directory}/memory.usage_in_bytes")
    yield from _memory(
        usage=usage,
        working_set=usage - memory.get("total_inactive_file", 0),
        peak=_value(f"{directory}/memory.max_usage_in_bytes"),
        swap=memory.get("total_swap", 0),
        kernel=_value(f"{directory}/memory.kmem.usage_in_bytes"),
        failures=_value(f"{directory}/memory.failcnt"),
        cache=memory.get("total_cache", 0),
        mapped=memory.get("total_mapped_file", 0),
        rss=memory.get("total_rss", 0),
    )
    yield from _faults("container", memory.get("pgfault", 0), memory.get("pgmajfault", 0))
    yield from _faults("hierarchy", memory.get("total_pgfault", 0), memory.get("total_pgmajfault", 0))
    yield Sample("container_oom_events_total", table(f"{directory}/memory.oom_control").get("oom_kill", 0))
    yield from _spec(
        _value(f"{dirs['cpu']}/cpu.shares"),
        _value(f"{dirs['cpu']}/cpu.cfs_quota_us"),
        _value(f"{dirs['cpu']}/cpu.cfs_period_us"),
    )
    yield from _limits(
        _value(f"{directory}/memory.limit_in_bytes"),
        _value(f"{directory}/memory.soft_limit_in_bytes"),
        _value(f"{directory}/memory.memsw.limit_in_bytes"),
    )
    if "blkio" in dirs:
        yield from _io_v1(dirs["blkio"])
    if "hugetlb" in dirs:
        yield from _huge_pages(dirs["hugetlb"], "usage_in_bytes", "max_usage_in_bytes")


def _cpu(used_ns: int, user_ns: int, system_ns: int, throttled_ns: int, stat: dict[str, int]) -> list[Sample]:
    return [
        Sample("container_cpu_usage_seconds_total", used_ns // NS_PER_S, ("total",)),
        Sample("container_cpu_user_seconds_total", user_ns // NS_PER_S),
        Sample("container_cpu_system_seconds_total", system_ns // NS_PER_S),
        Sample("container_cpu_cfs_periods_total", stat.get("nr_periods", 0)),
        Sample("container_cpu_cfs_throttled_periods_total", stat.get("nr_throttled", 0)),
        Sample("container_cpu_cfs_throttled_seconds_total", throttled_ns // NS_PER_S),
    ]


def _memory(
    *,
    usage: int,
    working_set: int,
    peak: int,
    swap: int,
    kernel: int,
    failures: int,
    cache: int,
    mapped: int,
    rss: int,
) -> list[Sample]:
    return [
        Sample("container_memory_usage_bytes", usage),
        Sample("container_memory_working_set_bytes", max(0, working_set)),
        Sample("container_memory_max_usage_bytes", peak),
        Sample("container_memory_swap", swap),
        Sample("container_memory_kernel_usage", kernel),
        Sample("container_memory_failcnt", failures),
        Sample("container_memory_cache", cache),
        Sample("container_memory_mapped_file", mapped),
        Sample("container_memory_rss", rss),
    ]


def _faults(scope: str, all_faults: int, major: int) -> list[Sample]:
    return [
        Sample("container_memory_failures_total", all_faults, ("pgfault", scope)),
        Sample("container_memory_failures_total", major, ("pgmajfault", scope)),
    ]


def _spec(shares: int, quota_us: int, period_us: int) -> list[Sample]:
    found = [Sample("container_spec_cpu_period", period_us), Sample("container_spec_cpu_shares", shares)]
    return [*found, Sample("container_spec_cpu_quota", quota_us)] if quota_us > 0 else found


def _limits(memory: int, reservation: int, swap: int) -> list[Sample]:
    names = ("memory_limit", "memory_reservation_limit", "memory_swap_limit")
    return [
        Sample(f"container_spec_{name}_bytes", 0 if value >= V1_UNLIMITED else value)
        for name, value in zip(names, (memory, reservation, swap), strict=True)
    ]


def _io_v2(directory: str) -> Iterator[Sample]:
    for line in (_optional(read, f"{directory}/io.stat") or "").splitlines():
        number, found = "", {}
        for word in line.split():  # Linux 5.15 to 5.18 ends no line of a device without counters
            key, _, value = word.partition("=")
            if value.isdigit():
                found[key] = int(value)
            elif ":" in word:
                number, found = word, {}
        if not found:
            continue
        size = {"Read": found.get("rbytes", 0), "Write": found.get("wbytes", 0)}
        count = {"Read": found.get("rios", 0), "Write": found.get("wios", 0)}
        yield from _device(number, size, count)


def _io_v1(directory: str) -> Iterator[Sample]:
    # the first that accounts for anything, as both may see the same I/O
    for scheduler in ("bfq", "throttle"):
        sizes = _by_device(f"{directory}/blkio.{scheduler}.io_service_bytes_recursive")
        counts = _by_device(f"{directory}/blkio.{scheduler}.io_serviced_recursive")
        for number, size in sizes.items():
            yield from _device(number, size, counts.get(number, {}))
        if sizes:
            return


def _by_device(path: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for line in (_optional(read, path) or "").splitlines():
        number, *rest = line.split()
        if len(rest) == 2:
            found.setdefault(number, {})[rest[0]] = int(rest[1])
    return found


def _device(number: str, size: dict[str, int], count: dict[str, int]) -> Iterator[Sample]:
    major, minor = number.split(":")
    device = device_name(int(major), int(minor))
    for operation in ("Read", "Write"):
        yield Sample(
            "container_blkio_device_usage_total", size.get(operation, 0), (device, major, minor, operation)
        )
        verb = operation.lower() + "s"
        yield Sample(f"container_fs_{verb}_bytes_total", size.get(operation, 0), (device,))
        yield Sample(f"container_fs_{verb}_total", count.get(operation, 0), (device,))


def device_name(major: int, minor: int) -> str:
    """/dev/NAME of a block device, or its numbers when it has no name (an overlay, a tmpfs)."""
    try:
        return f"/dev/{Path(f'/sys/dev/block/{major}:{minor}').readlink().name}"
    except OSError:
        return f"{major}:{minor}"


def _huge_pages(directory: str, now: str, peak: str | None) -> Iterator[Sample]:
    for path in Path(directory).glob(f"hugetlb.*.{now}"):
        found = _HUGE.fullmatch(path.name)
        if found is None:
            continue
        yield Sample("container_hugetlb_usage_bytes", _value(str(path)), (found[1],))
        if peak:
            most = _value(f"{directory}/hugetlb.{found[1]}.{peak}")
            yield Sample("container_hugetlb_max_usage_bytes", most, (found[1],))


def _optional(reader: Callable[[str], T], path: str) -> T | None:
    try:
        return reader(path)
    except FileNotFoundError:
        return None


def _value(path: str) -> int:
    """A file of one number; 0 for "max" (no limit), and where this kernel has no such file."""
    text = (_optional(read, path) or "0").strip()
    return 0 if text == "max" else int(text)
