"""A pod as the kernel sees it: its own cgroup, and the interfaces in its network namespace."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from common.errors import InvalidArgumentError, SlipwayError
from runtimed.network import netns
from runtimed.network.netns import InterfaceStats
from runtimed.oci import cgroups
from runtimed.oci.cgroups import CgroupPlan
from runtimed.record import SandboxRecord, SandboxState
from runtimed.use.parts import Parts


def pod_plan(parts: Parts, record: SandboxRecord) -> CgroupPlan | None:
    """The cgroup that a kubelet gave the pod, which holds those of its containers.

    None when it gave none, or one that this node's driver cannot have made.
    """
    if not record.cgroup_parent:
        return None
    try:
        below = cgroups.plan(
            parts.settings.cgroup_driver, record.cgroup_parent, record.id, parts.cgroup_version
        )
    except InvalidArgumentError:  # the driver was another when the pod was made
        return None
    return msgspec.structs.replace(
        below, dirs={name: str(Path(path).parent) for name, path in below.dirs.items()}
    )


def network_of(record: SandboxRecord) -> str:
    """Its pinned network namespace; empty when it has the node's, or none any more."""
    return record.namespaces.get("network", "") if record.state is SandboxState.READY else ""


def read_links(paths: Iterable[str]) -> list[list[InterfaceStats]]:
    """The interfaces of each namespace but loopback; none for an empty path. Blocking."""
    found: list[list[InterfaceStats]] = []
    for path in paths:
        try:
            found.append(netns.read_interfaces(path) if path else [])
        except (OSError, SlipwayError):
            found.append([])  # the sandbox went away meanwhile
    return found
