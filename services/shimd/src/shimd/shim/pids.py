"""How many processes a container may have, and how often it wanted more, from its cgroup of either version."""

from shimd.shim.files import read
from shimd.shim.handover import Facts


def limit(directory: str) -> Facts:
    """`limit` and `hits` of a cgroup's directory; what it does not tell is left out, as the limit of one without."""
    if not directory:
        return {}
    found: Facts = {}
    most = read(f"{directory}/pids.max").strip()
    if most.isdigit():
        found["limit"] = int(most)
    name, _, count = read(f"{directory}/pids.events").partition(b"\n")[0].partition(b" ")
    if name == b"max" and count.isdigit():
        found["hits"] = int(count)
    return found
