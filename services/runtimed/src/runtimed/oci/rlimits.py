"""Resource limits (setrlimit) that a container starts with: a setting of the node and a wish of people, since CRI has no field."""

import resource
from collections.abc import Mapping
from typing import Any

NAMES = {
    name.removeprefix("RLIMIT_").lower(): number
    for name, number in vars(resource).items()
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
}
UNLIMITED = -1
_INFINITY = 2**64 - 1  # RLIM_INFINITY of the OCI runtime specification


def check(field: str, limits: Mapping[str, tuple[int, int]]) -> None:
    """Refuse limits that no kernel would take.

    Raises:
        ValueError: with the name and the values.
    """
    for name, (soft, hard) in limits.items():
        if name not in NAMES:
            raise ValueError(f"{field}: {name!r} is none of {', '.join(sorted(NAMES))}")
        if min(soft, hard) < UNLIMITED or _number(soft) > _number(hard):
            raise ValueError(f"{field}: {name} = {soft}, {hard} is no soft and hard limit")


def build(limits: Mapping[str, tuple[int, int]], host_caps: frozenset[str]) -> list[dict[str, Any]]:
    """`process.rlimits`. Without CAP_SYS_RESOURCE no hard limit above this process's own can be given: it is lowered."""
    found = []
    for name, (soft, hard) in sorted(limits.items()):
        highest = _INFINITY
        if "CAP_SYS_RESOURCE" not in host_caps:
            highest = _number(resource.getrlimit(NAMES[name])[1])
        bound = min(_number(hard), highest)
        found.append({"type": f"RLIMIT_{name.upper()}", "soft": min(_number(soft), bound), "hard": bound})
    return found


def _number(limit: int) -> int:
    return _INFINITY if limit == UNLIMITED else limit
