"""What is looked at: PSI and disk of the node, memory and PSI of a container's cgroup. All of it blocks, briefly."""

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from runtimed.oci.cgroups import V2, CgroupPlan
from runtimed.readings.files import number, pressure, table
from runtimed.readings.usage import V1_UNLIMITED
from runtimed.settings import Settings

PSI = "/proc/pressure"


class Reading(NamedTuple):
    """A value and the one from which it is pressure."""

    resource: str
    value: float
    threshold: float
    where: str = ""


def of_node(settings: Settings) -> list[Reading]:
    """The node's pressure, where the kernel tells it, and its disk."""
    return [*_stalls(PSI, "", settings), *_disk(settings.data_dir, settings.pressure_disk_percent)]


def _stalls(directory: str, suffix: str, settings: Settings) -> Iterator[Reading]:
    thresholds = {
        "cpu": settings.pressure_cpu_percent,
        "memory": settings.pressure_memory_percent,
        "io": settings.pressure_io_percent,
    }
    for resource, threshold in thresholds.items():
        found = pressure(f"{directory}/{resource}{suffix}") if threshold else None
        if found is not None:
            yield Reading(resource, found.some.avg10, threshold)


def _disk(path: str, threshold: float) -> Iterator[Reading]:
    if not threshold:
        return
    found = os.statvfs(path)
    used = found.f_blocks - found.f_bfree
    if used + found.f_bavail:
        yield Reading("disk", 100 * used / (used + found.f_bavail), threshold, path)
    if found.f_files:  # btrfs and others have no fixed number
        yield Reading("inodes", 100 * (found.f_files - found.f_ffree) / found.f_files, threshold, path)


class Counts(NamedTuple):
    """What a cgroup has counted since it was made."""

    high: int
    limit: int
    kills: int


class CgroupWatch:
    """One container's cgroup; what is counted is told by how much it grew between two looks.

    Args:
        fresh: the container was started since the last look at all, so that its counts began at 0.
    """

    def __init__(self, *, fresh: bool) -> None:
        self._last = Counts(0, 0, 0) if fresh else None

    def look(self, plan: CgroupPlan, settings: Settings) -> list[Reading]:
        """Its readings; none when it is gone."""
        try:
            return list(self._v2(plan.dirs[""], settings) if plan.version == V2 else self._v1(plan, settings))
        except (FileNotFoundError, KeyError):
            return []
        except OSError as exc:
            if exc.errno == errno.ENODEV:  # removed between open and read
                return []
            raise

    def _v2(self, directory: str, settings: Settings) -> Iterator[Reading]:
        events = table(f"{directory}/memory.events")
        yield from self._grown(Counts(events.get("high", 0), events.get("max", 0), events.get("oom_kill", 0)))
        limit = number(f"{directory}/memory.max")
        if limit and settings.pressure_limit_percent:
            usage = number(f"{directory}/memory.current") or 0
            idle = table(f"{directory}/memory.stat").get("inactive_file", 0)
            yield _usage(usage - idle, limit, settings)
        yield from _stalls(directory, ".pressure", settings)

    def _v1(self, plan: CgroupPlan, settings: Settings) -> Iterator[Reading]:
        directory = plan.dirs["memory"]
        kills = table(f"{directory}/memory.oom_control").get("oom_kill", 0)
        # not counted by the kernel when memory and swap together have the same limit
        yield from self._grown(Counts(0, number(f"{directory}/memory.failcnt") or 0, kills))
        limit = number(f"{directory}/memory.limit_in_bytes") or V1_UNLIMITED
        if limit < V1_UNLIMITED and settings.pressure_limit_percent:
            usage = number(f"{directory}/memory.usage_in_bytes") or 0
            idle = table(f"{directory}/memory.stat").get("total_inactive_file", 0)
            yield _usage(usage - idle, limit, settings)

    def _grown(self, now: Counts) -> Iterator[Reading]:
        last, self._last = self._last or now, now
        for resource, new, old in zip(("memory-high", "memory-limit", "oom-kill"), now, last, strict=True):
            yield Reading(resource, new - old, 1)


def _usage(used: int, limit: int, settings: Settings) -> Reading:
    return Reading("memory-usage", 100 * max(0, used) / limit, settings.pressure_limit_percent)
