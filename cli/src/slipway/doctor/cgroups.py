"""Control groups: which layout, and whether it has what limits need."""

from typing import Any

from common.errors import SlipwayError
from slipway import connect
from slipway.doctor.finding import Finding, Level, Machine

ROOT = "/sys/fs/cgroup"
WANTED = ("cpu", "cpuset", "memory", "pids")
_V1_ONLY_FIX = "Boot with systemd.unified_cgroup_hierarchy=1 for cgroup v2: v1 has no PSI of containers and no memory.high."


def layout(machine: Machine) -> Finding:
    if _is_v2(machine):
        return Finding("cgroups", Level.OK, "version 2")
    if machine.read(f"{ROOT}/unified/cgroup.controllers"):
        text = (
            "hybrid, with controllers in the unified part: crun refuses it, and is called without that part"
        )
        return Finding("cgroups", Level.NOTE, text, _V1_ONLY_FIX)
    if machine.at(f"{ROOT}/memory").is_dir():
        return Finding("cgroups", Level.NOTE, "version 1", _V1_ONLY_FIX)
    fix = f"Mount them: `mount -t cgroup2 none {ROOT}`."
    return Finding("cgroups", Level.FAIL, f"none at {ROOT}", fix)


def controllers(machine: Machine) -> Finding:
    if _is_v2(machine):
        there = machine.read(f"{ROOT}/cgroup.controllers").split()
    else:
        there = [
            line.split()[0] for line in machine.read("/proc/cgroups").splitlines()[1:] if line.endswith("1")
        ]
    missing = [name for name in WANTED if name not in there]
    if missing:
        fix = "Boot without cgroup_disable=, and delegate them if this is a container (Delegate=yes)."
        return Finding("controllers", Level.FAIL, f"without {', '.join(missing)}: such limits fail", fix)
    return Finding("controllers", Level.OK, ", ".join(WANTED))


def _is_v2(machine: Machine) -> bool:
    return machine.at(f"{ROOT}/cgroup.controllers").exists()


async def driver(machine: Machine, facts: dict[str, Any]) -> list[Finding]:
    """Whether the node leaves its cgroups to the systemd of a machine that has one."""
    from common.api.cri.v1 import api_pb2 as cri

    if not facts:
        return []
    try:
        async with connect.node(machine.run_dir) as node:
            answer = await node.runtime.RuntimeConfig(cri.RuntimeConfigRequest())
    except SlipwayError:
        return []  # that it does not serve is told already
    return tell_driver(machine, is_systemd=answer.linux.cgroup_driver == cri.SYSTEMD)


def tell_driver(machine: Machine, *, is_systemd: bool) -> list[Finding]:
    """What is to be said of a node's driver on this machine: nothing where no other would do."""
    if not _is_v2(machine) or not machine.at("/run/systemd/system").is_dir():
        return []
    if is_systemd:
        return [Finding("cgroup driver", Level.OK, "systemd")]
    text = "cgroupfs, beside a systemd that takes all cgroups to be its own: a kubelet's default is systemd"
    fix = (
        'While no pod runs, put `cgroup_driver = "systemd"` into runtimed.toml, in /etc/slipway when it was installed, '
        "and restart runtimed."
    )
    return [Finding("cgroup driver", Level.NOTE, text, fix)]


CHECKS = (layout, controllers)
ASKING = (driver,)
