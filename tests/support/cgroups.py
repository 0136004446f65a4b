"""Cgroups of containers, by either driver: SLIPWAY_RUNTIMED_CGROUP_DRIVER names the one of the nodes under test."""

import glob
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
SYSTEMD = os.environ.get("SLIPWAY_RUNTIMED_CGROUP_DRIVER") == "systemd"


def parent(*names: str) -> str:
    """A cgroup parent as a kubelet with this driver asks for it: nested folders, or a slice."""
    return f"{'-'.join(names)}.slice" if SYSTEMD else f"/{'/'.join(names)}"


def folder(parent: str) -> str:
    """The end of the path of the folder that a parent is."""
    return f"/{parent}" if SYSTEMD else parent


def path(named: str) -> str:
    """Where the cgroup is that an OCI runtime is told of: as it is, or the scope of `SLICE:PREFIX:NAME`, of a slice in no other."""
    return "/{}/{}-{}.scope".format(*named.split(":")) if SYSTEMD else named


def files(container_id: str, *names: str) -> list[Path]:
    """Files of a container's cgroup, in each hierarchy that there is; with the systemd driver that is a scope."""
    pattern = f"{ROOT}/**/*{container_id}*"  # Path.glob fails when a folder goes meanwhile
    found = {Path(path, name).resolve() for path in glob.glob(pattern, recursive=True) for name in names}
    return sorted(path for path in found if path.exists())
