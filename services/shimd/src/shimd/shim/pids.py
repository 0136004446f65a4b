"""How many processes a container may have, and how often it wanted more, from its cgroup of either version."""

from shimd.shim.files import read
from shimd.shim.handover import Facts


def limit(directory: str) -> Facts:
    """`limit` and `hits` of a cgroup's directory; what it does not tell is left out, as the limit of one without.

    With those of the cgroup that crun makes below a systemd scope: before Linux 6.11 a fork that is refused counts where
    it was tried, whichever limit refused it; since then it counts in the cgroups above as well.
    """
    if not directory:
        return {}
    found: Facts = {}
    for path in (directory, f"{directory}/container") if directory.endswith(".scope") else (directory,):
        most = read(f"{path}/pids.max").strip()
        if most.isdigit():
            found["limit"] = min(int(most), found.get("limit", int(most)))
        name, _, count = read(f"{path}/pids.events").partition(b"\n")[0].partition(b" ")
        if name == b"max" and count.isdigit():
            found["hits"] = max(int(count), found.get("hits", 0))
    return found
