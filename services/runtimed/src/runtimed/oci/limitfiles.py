"""The limits of a running container as the files of its cgroup have them, to be put back after a change that failed.

An OCI runtime writes one file after the other and stops at the first that the kernel refuses; and of what a container
had no limit for, no request of ours tells what was there.
"""

import fnmatch
from collections.abc import Iterable
from contextlib import suppress
from itertools import product
from pathlib import Path

from runtimed.oci.cgroups import CRUN_SUBGROUP, CgroupPlan

NAMES = (
    *("memory.memsw.limit_in_bytes", "memory.limit_in_bytes"),
    *("memory.min", "memory.low", "memory.high", "memory.swap.max", "memory.max"),
    *("cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.weight", "cpu.max"),
    *("cpuset.cpus", "cpuset.mems", "pids.max", "hugetlb.*.limit_in_bytes", "hugetlb.*.max"),
)
"""What an update may write, of both versions of cgroups."""
Held = dict[Path, str]


def read(plan: CgroupPlan, unified: Iterable[str]) -> Held:
    """The files of the container's cgroup, and of crun's below it, also those named here. Blocking."""
    wanted = (*NAMES, *unified)
    found: Held = {}
    for directory, below in product(plan.dirs.values(), ("", CRUN_SUBGROUP)):
        path = Path(directory, below)
        try:
            there = [entry.name for entry in path.iterdir()]
        except FileNotFoundError:
            continue
        for name in (name for key in wanted for name in fnmatch.filter(there, key)):
            with suppress(OSError):  # some can only be written, and hold no limit
                found[path / name] = (path / name).read_text()
    return found


def put_back(held: Held) -> None:
    """Write what is different now. Blocking.

    Raises:
        OSError: a file cannot be put back; the others are.
    """
    failure: OSError | None = None
    for _ in range(2):  # one limit may have to follow another: memory before memory and swap, or after
        failure = None
        for path, text in held.items():
            try:
                if path.read_text() != text:
                    _write(path, text)
            except OSError as exc:
                failure = exc
    if failure is not None:
        raise failure


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError:
        if text.strip():
            raise
        # Linux 6.1 lets no cpuset with processes have none of its own again; all of the parent's is the same.
        path.write_text((path.parent.parent / f"{path.name}.effective").read_text())


def of_scope(plan: CgroupPlan, held: Held) -> dict[str, dict[str, str | int]]:
    """The same of a systemd scope, as OCI's `linux.resources`."""
    found = {path.name: text.strip() for path, text in held.items() if str(path.parent) == plan.dirs.get("")}
    quota, _, period = found.pop("cpu.max", "").partition(" ")
    cpu: dict[str, str | int] = {}
    if period:
        cpu = {"quota": -1 if quota == "max" else int(quota), "period": int(period)}
    return {"cpu": cpu, "unified": {**found}}
