"""Where a container's cgroup is and what its limits are, for cgroup v1 and v2; makes and removes none.

shares→weight is converted here only: the OCI runtime gets `unified: {cpu.weight}` on v2 and no shares, since
runtimes of different age convert differently (1024 → 39 or 100).
"""

import bisect
import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from common.errors import InvalidArgumentError
from runtimed.oci import hugepages

ROOT = "/sys/fs/cgroup"
V1_CONTROLLERS = ("blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "pids")
DEFAULT_PARENT = "/slipway"
V2 = 2
CGROUPFS, SYSTEMD = "cgroupfs", "systemd"
MIN_SHARES, MAX_SHARES = 2, 262144
MIN_CPU_US = 1000
NO_LIMIT = "max"
CRUN_SUBGROUP = "container"  # below a systemd scope, which is systemd's to write

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_CPUSET = re.compile(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*")
_UNIFIED_KEY = re.compile(r"[a-z0-9]+(\.[A-Za-z0-9_-]+)+")
_CPUS, _NODES = Path("/sys/devices/system/cpu/online"), Path("/sys/devices/system/node/online")
_NUMBER = re.compile(r"\d{1,10}")


class CgroupPlan(msgspec.Struct, frozen=True):
    """The cgroup of one container.

    Attributes:
        driver: "cgroupfs" or "systemd".
        version: 1 or 2.
        oci_path: `linux.cgroupsPath` of the OCI configuration.
        dirs: absolute directory by controller on v1; {"": directory} on v2.
    """

    driver: str
    version: int
    oci_path: str
    dirs: dict[str, str]

    @property
    def path(self) -> str:
        """The cgroup as one path below every hierarchy."""
        controller, directory = next(iter(self.dirs.items()))
        return directory.removeprefix(ROOT).removeprefix(f"/{controller}" if controller else "")

    @property
    def task_dir(self) -> str:
        """Where its processes are listed."""
        return self.dirs.get("") or self.dirs.get("pids") or self.dirs["memory"]

    @property
    def leaf(self) -> str:
        """Where v2 holds its processes, and their limits exactly: below a scope crun makes a cgroup for both. Blocking.

        The scope's own limits are systemd's, which rounds them, and knows nothing of what is written below it.
        """
        directory = self.dirs.get("", "")
        if self.driver != SYSTEMD or not directory:
            return directory
        below = f"{directory}/{CRUN_SUBGROUP}"
        return below if Path(below).is_dir() else directory


def detect() -> int:
    """2 when /sys/fs/cgroup is the unified hierarchy, else 1 (hybrid counts as 1)."""
    return 2 if (Path(ROOT) / "cgroup.controllers").exists() else 1


def repair(root: str = ROOT) -> None:
    """Open the default parent of all pods, which older versions left to root alone: users in pods read below it.

    Blocking.
    """
    for directory in (Path(root + DEFAULT_PARENT), *Path(root).glob(f"*{DEFAULT_PARENT}")):
        with suppress(OSError):  # there is none, or it is somebody else's
            directory.chmod(0o755)


def rouse() -> None:
    """Make the kernel quick to move a process into a cgroup, for some 10 ms from the return on. Blocking.

    The first move for a while waits for an RCU grace period (cgroup_threadgroup_rwsem), 10 ms and more; those that
    follow closely do not. This one is to where the process is already, so it changes nothing but that.
    """
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("pids", ""):
                (Path(ROOT) / controllers / path.lstrip("/") / "cgroup.procs").write_text("0")
                return
    except OSError:
        return  # a start is slower then, and nothing else


def plan(driver: str, parent: str, container_id: str, version: int) -> CgroupPlan:
    """Place a container's cgroup below the parent that the kubelet chose.

    Raises:
        InvalidArgumentError: the driver is unknown, or the parent is not one of this driver.
    """
    if not _ID.fullmatch(container_id):
        raise InvalidArgumentError(f"container id {container_id!r} is no cgroup name")
    if driver == SYSTEMD:
        slice_name = parent.rstrip("/").rsplit("/", 1)[-1] if parent else "slipway.slice"
        below = f"{slice_path(slice_name)}/slipway-{container_id}.scope"
        oci_path = f"{slice_name}:slipway:{container_id}"
    elif driver == CGROUPFS:
        parts = (parent or DEFAULT_PARENT).strip("/").split("/")
        if parts[-1].endswith(".slice") or any(part in {"", ".", ".."} for part in parts):
            raise InvalidArgumentError(f"cgroup_parent {parent!r} does not fit the cgroupfs driver")
        below = f"/{'/'.join(parts)}/{container_id}"
        oci_path = below
    else:
        raise InvalidArgumentError(f"cgroup driver {driver!r} is neither cgroupfs nor systemd")
    dirs = {"": ROOT + below} if version == V2 else _v1_dirs(below)
    return CgroupPlan(driver=driver, version=version, oci_path=oci_path, dirs=dirs)


def slice_path(name: str) -> str:
    """Where systemd puts a slice: a-b.slice is /a.slice/a-b.slice.

    Raises:
        InvalidArgumentError: the name is no slice.
    """
    if name == "-.slice":
        return ""
    stem = name.removesuffix(".slice")
    if stem == name or not stem or "/" in stem or any(not part for part in stem.split("-")):
        raise InvalidArgumentError(f"cgroup_parent {name!r} is no systemd slice")
    parts = stem.split("-")
    return "".join(f"/{'-'.join(parts[: n + 1])}.slice" for n in range(len(parts)))


def _v1_dirs(below: str) -> dict[str, str]:
    return {name: f"{ROOT}/{name}{below}" for name in V1_CONTROLLERS if (Path(ROOT) / name).is_dir()}


def cpu_weight(shares: int) -> int:
    """cpu.weight of v2 for cpu.shares of v1, as runc ≥ 1.3.2 and crun ≥ 1.23 compute it: 2 → 1, 1024 → 100, 262144 → 10000."""
    bounded = min(max(shares, MIN_SHARES), MAX_SHARES)
    if bounded == MIN_SHARES:
        return 1
    if bounded == MAX_SHARES:
        return 10000
    level = math.log2(bounded)
    return math.ceil(10 ** ((level * level + 125 * level) / 612 - 7 / 34))


def cpu_shares(weight: int) -> int:
    """The fewest cpu.shares that give this cpu.weight."""
    every = range(MIN_SHARES, MAX_SHARES + 1)
    return every[min(bisect.bisect_left(every, weight, key=cpu_weight), len(every) - 1)]


def resources(res: Any, version: int) -> dict[str, Any]:
    """`linux.resources` for CRI's LinuxContainerResources, without the device rules.

    Raises:
        InvalidArgumentError: a value that the kernel would refuse, with its field's name.
    """
    found: dict[str, Any] = {}
    unified = _unified(res, version)
    cpu = _cpu(res, version, unified)
    memory = _memory(res)
    processes = _pids(unified.pop("pids.max", NO_LIMIT)) if version == 1 else None
    if processes is not None:
        found["pids"] = {"limit": processes}
    pages = hugepages.limits(res.hugepage_limits, version)
    if cpu:
        found["cpu"] = cpu
    if memory:
        found["memory"] = memory
    if pages:
        found["hugepageLimits"] = pages
    if unified:
        found["unified"] = unified
    return found


def _cpu(res: Any, version: int, unified: dict[str, str]) -> dict[str, Any]:
    _check_times(res)
    cpu: dict[str, Any] = {}
    if res.cpu_shares and version == 1:
        cpu["shares"] = min(max(res.cpu_shares, MIN_SHARES), MAX_SHARES)
    elif res.cpu_shares:
        unified.setdefault("cpu.weight", str(cpu_weight(res.cpu_shares)))
    if res.cpu_quota > 0:  # below is "no limit", which a new cgroup has, and crun cannot write
        cpu["quota"] = res.cpu_quota
    if res.cpu_period:
        cpu["period"] = res.cpu_period
    for key, text, there in (("cpus", res.cpuset_cpus, _CPUS), ("mems", res.cpuset_mems, _NODES)):
        if text and not _CPUSET.fullmatch(text):
            raise InvalidArgumentError(f"cpuset_{key} {text!r} is no list of numbers")
        if text:
            _check_there(f"cpuset_{key}", text, there)
            cpu[key] = text
    return cpu


def _check_times(res: Any) -> None:
    if res.cpu_shares < 0 or res.cpu_period < 0:
        raise InvalidArgumentError(f"cpu_shares {res.cpu_shares} or cpu_period {res.cpu_period} is negative")
    for field, value in (("cpu_quota", res.cpu_quota), ("cpu_period", res.cpu_period)):
        if 0 < value < MIN_CPU_US:
            raise InvalidArgumentError(f"{field} {value}: the kernel takes {MIN_CPU_US} µs and more")


def _check_there(field: str, text: str, path: Path) -> None:
    """Refuse numbers of a list that are not in the list of a file."""
    try:
        there = path.read_text().strip()
    except FileNotFoundError:
        return  # a kernel without NUMA
    absent = _numbers(text) - _numbers(there)
    if absent:
        raise InvalidArgumentError(f"{field} {text!r}: there is no {min(absent)}, this node has {there}")


def _numbers(text: str) -> set[int]:
    """A list of numbers and ranges, as the kernel writes it."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def unlimit_cpu(plan: CgroupPlan) -> None:
    """Take the quota away. Blocking."""
    if plan.version == 1:
        (Path(plan.dirs["cpu"]) / "cpu.cfs_quota_us").write_text("-1")
        return
    scope = Path(plan.dirs[""])
    for directory in (scope, scope / CRUN_SUBGROUP):
        if (directory / "cpu.max").exists():
            (directory / "cpu.max").write_text("max")


def unlimit_pids(plan: CgroupPlan) -> None:
    """Take the limit of processes of version 1 away. Blocking."""
    if plan.version == 1 and "pids" in plan.dirs:
        (Path(plan.dirs["pids"]) / "pids.max").write_text(NO_LIMIT)


def _memory(res: Any) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    limit, swap = res.memory_limit_in_bytes, res.memory_swap_limit_in_bytes
    if limit < -1:
        raise InvalidArgumentError(f"memory_limit_in_bytes {limit} is negative")
    if limit:
        memory["limit"] = limit
    # CRI's and OCI's swap are both memory + swap; without one, a limited container may not swap.
    if 0 < swap < limit:
        raise InvalidArgumentError(
            f"memory_swap_limit_in_bytes {swap} is below memory_limit_in_bytes {limit}"
        )
    if (swap or limit > 0) and _swap_is_accounted():
        memory["swap"] = swap or limit
    return memory


def _swap_is_accounted() -> bool:
    """Whether this kernel can limit swap: asking for it otherwise fails the start."""
    if detect() == V2:
        return Path("/proc/swaps").exists()
    return (Path(ROOT) / "memory/memory.memsw.limit_in_bytes").exists()


def _unified(res: Any, version: int) -> dict[str, str]:
    if version == 1 and set(res.unified) - {"pids.max"}:
        raise InvalidArgumentError(f"unified {sorted(res.unified)}: this node has cgroup v1")
    for key, value in res.unified.items():
        if not _UNIFIED_KEY.fullmatch(key) or "\x00" in value:
            raise InvalidArgumentError(f"unified: {key!r} is no file of a cgroup")
    return dict(res.unified)


def _pids(text: str) -> int | None:
    """Processes of version 1; None for no limit, which a new cgroup has, and crun 1.8 cannot write."""
    if text == NO_LIMIT:
        return None
    if not _NUMBER.fullmatch(text):
        raise InvalidArgumentError(f"unified: pids.max {text!r} is no number")
    return int(text)
