"""Where a cgroup of one name is, in either version."""

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def cgroup_directories(name: str, root: Path = ROOT) -> list[str]:
    """The directories of one cgroup in every hierarchy that this machine has; none for an empty name."""
    if not name:
        return []
    if (root / "cgroup.controllers").exists():
        return [f"{root}/{name}"]
    hierarchies = sorted(entry for entry in root.iterdir() if (entry / "cgroup.procs").exists())
    # cpu and cpu,cpuacct may be two names of one hierarchy.
    found = {entry.resolve(): None for entry in hierarchies}
    return [f"{directory}/{name}" for directory in found]
