"""Limits as the kernel took them, in CRI's units: it rounds to pages, and a weight stands for many shares."""

from bisect import bisect_left

from common.api.cri.v1 import api_pb2 as cri
from runtimed.oci.cgroups import MAX_SHARES, MIN_SHARES, V2, CgroupPlan, cpu_weight
from runtimed.readings.files import number, read


def applied(asked: cri.LinuxContainerResources, plan: CgroupPlan) -> cri.LinuxContainerResources:
    """What was asked, with the values that hold; as asked where the kernel has no file. Blocking."""
    found = cri.LinuxContainerResources()
    found.CopyFrom(asked)
    try:
        held = _v2(plan.leaf, asked) if plan.version == V2 else _v1(plan.dirs)
    except (OSError, KeyError):
        return found
    for field, value in held.items():
        if getattr(asked, field) > 0 and value:
            setattr(found, field, value)
    return found


def _v1(dirs: dict[str, str]) -> dict[str, int | None]:
    return {
        "memory_limit_in_bytes": number(f"{dirs['memory']}/memory.limit_in_bytes"),
        "memory_swap_limit_in_bytes": number(f"{dirs['memory']}/memory.memsw.limit_in_bytes"),
        "cpu_shares": number(f"{dirs['cpu']}/cpu.shares"),
        "cpu_quota": number(f"{dirs['cpu']}/cpu.cfs_quota_us"),
        "cpu_period": number(f"{dirs['cpu']}/cpu.cfs_period_us"),
    }


def _v2(directory: str, asked: cri.LinuxContainerResources) -> dict[str, int | None]:
    quota, period = read(f"{directory}/cpu.max").split()
    weight = number(f"{directory}/cpu.weight") or 0
    shares = asked.cpu_shares
    if cpu_weight(shares) != weight:
        shares = MIN_SHARES + bisect_left(range(MIN_SHARES, MAX_SHARES), weight, key=cpu_weight)
    memory, swap = number(f"{directory}/memory.max"), number(f"{directory}/memory.swap.max")
    return {
        "memory_limit_in_bytes": memory,
        "memory_swap_limit_in_bytes": None if memory is None or swap is None else memory + swap,
        "cpu_shares": shares,
        "cpu_quota": None if quota == "max" else int(quota),
        "cpu_period": int(period),
    }
