"""The limits of a container as properties of its systemd scope, on cgroup v2.

systemd writes the files of a scope from its own properties, again after each daemon-reload and each change of one.
runc gives it most limits as properties; crun before 1.9 gives it the CPU weight alone and writes the others to a
sub-cgroup of the scope, so that the scope itself, whose files are read for statistics, shows none.
"""

import subprocess
from typing import Any

import anyio

from common.errors import UnknownError
from runtimed.oci.cgroups import SYSTEMD, V2, CgroupPlan

PREFIX = "org.systemd.property."
INFINITY = (1 << 64) - 1
CALL_S = 20.0
# A whole percent: the unit's file has no finer quota, and one of 0 % would be no limit (runc rounds up as well).
_PERCENT_US = 10_000
_SECOND_US = 1_000_000
_DEFAULT_PERIOD_US = 100_000
_UNIFIED = {
    "memory.min": "MemoryMin",
    "memory.low": "MemoryLow",
    "memory.high": "MemoryHigh",
    "memory.max": "MemoryMax",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
}
_MAY_BE_ZERO = ("MemoryMin", "MemoryLow", "MemorySwapMax")
_CALL = (
    "busctl",
    "call",
    "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
    "SetUnitProperties",
    "sba(sv)",
)


def properties(limits: dict[str, Any]) -> dict[str, int]:
    """Systemd's names and units (bytes, microseconds, INFINITY for none) for `linux.resources`."""
    memory, cpu = limits.get("memory", {}), limits.get("cpu", {})
    found: dict[str, int] = {}
    limit = memory.get("limit")
    if limit is not None:
        found["MemoryMax"] = limit if limit >= 0 else INFINITY
    if limit is not None and "swap" in memory:  # OCI's is memory and swap together
        found["MemorySwapMax"] = memory["swap"] - limit if memory["swap"] >= 0 <= limit else INFINITY
    if "period" in cpu:
        found["CPUQuotaPeriodUSec"] = cpu["period"]
    if "quota" in cpu:
        found["CPUQuotaPerSecUSec"] = _per_second(cpu["quota"], cpu.get("period", _DEFAULT_PERIOD_US))
    for key, name in _UNIFIED.items():
        text = limits.get("unified", {}).get(key, "")
        if text == "max" or (text.isascii() and text.isdigit()):
            found[name] = INFINITY if text == "max" else int(text)
    return {name: value for name, value in found.items() if value or name in _MAY_BE_ZERO}


def _per_second(quota: int, period: int) -> int:
    if quota < 0:
        return INFINITY
    return -(-quota * _SECOND_US // (period * _PERCENT_US)) * _PERCENT_US


def annotations(plan: CgroupPlan | None, limits: dict[str, Any]) -> dict[str, str]:
    """What has crun and runc make the scope with these limits; nothing where systemd does not make the cgroups.

    Without a limit of processes, systemd's own for every unit (DefaultTasksMax) is not to hold.
    """
    if plan is None or not _is_scope(plan):
        return {}
    found = properties(limits)
    if "pids.max" not in limits.get("unified", {}):
        found["TasksMax"] = INFINITY
    return {PREFIX + name: f"uint64 {value}" for name, value in found.items()}


async def update(plan: CgroupPlan, limits: dict[str, Any]) -> None:
    """Give a running container's scope other limits; nothing where systemd does not make the cgroups.

    systemd writes them in its own time, but before it answers the next call.

    Raises:
        UnknownError: systemd refused, or did not answer within CALL_S.
    """
    found = properties(limits)
    if not found or not _is_scope(plan):
        return
    name = plan.dirs[""].rpartition("/")[2]
    words = [word for key, value in found.items() for word in (key, "t", str(value))]
    command = [*_CALL, name, "true", str(len(found)), *words]  # true: until the next boot
    try:
        with anyio.fail_after(CALL_S):
            done = await anyio.run_process(command, check=False, stderr=subprocess.STDOUT)
    except (OSError, TimeoutError) as exc:
        raise UnknownError(f"{name}: busctl: {str(exc) or f'no answer in {CALL_S} s'}") from exc
    if done.returncode:
        raise UnknownError(f"{name}: systemd: {done.stdout.decode(errors='replace').strip()}")


def _is_scope(plan: CgroupPlan) -> bool:
    return plan.driver == SYSTEMD and plan.version == V2
