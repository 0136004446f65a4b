"""Which sysctls a sandbox may set: those of its own namespaces (CVE-2022-0811)."""

import re
from collections.abc import Iterable, Mapping

from common.errors import InvalidArgumentError

KINDS = ("network", "ipc", "uts")
"""OCI types of namespaces that have sysctls."""
MAX_VALUE_BYTES = 4096
_PING_GROUPS = "net/ipv4/ping_group_range"
_KEY = re.compile(r"[a-z0-9](?:[-_a-z0-9]*[a-z0-9])?(?:[./][A-Za-z0-9](?:[-_A-Za-z0-9]*[A-Za-z0-9])?)+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_IPC = frozenset(
    f"kernel/{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


def path_of(key: str) -> str:
    """The file below /proc/sys. As sysctl(8) has it, the first separator decides what the other one means.

    Raises:
        InvalidArgumentError: the key has another form.
    """
    if not _KEY.fullmatch(key):
        raise InvalidArgumentError(f"sysctls: {key!r} is no sysctl name")
    if "/" in key and ("." not in key or key.index("/") < key.index(".")):
        return key
    return key.translate(str.maketrans("./", "/."))


def namespace_of(path: str) -> str:
    """OCI type of the namespace that a sysctl belongs to; "" for the whole machine's."""
    if path.startswith("net/"):
        return "network"
    if path in _IPC or path.startswith("fs/mqueue/"):
        return "ipc"
    return "uts" if path == "kernel/domainname" else ""


def defaults(sysctls: Mapping[str, str], namespaces: Iterable[str], *, mapped: bool) -> dict[str, str]:
    """Values by path below /proc/sys, of those that a sandbox's own namespaces have.

    Args:
        sysctls: of every sandbox.
        namespaces: OCI types that this one has for itself.
        mapped: whether it has a user namespace, which takes no range of groups that it does not map.
    """
    own = set(namespaces)
    found = {path_of(key): value for key, value in sysctls.items()}
    return {
        path: value
        for path, value in found.items()
        if namespace_of(path) in own and not (mapped and path == _PING_GROUPS)
    }


def check(sysctls: dict[str, str], namespaces: Iterable[str]) -> dict[str, str]:
    """Values by path below /proc/sys.

    Args:
        sysctls: as CRI has them.
        namespaces: OCI types that the sandbox has for itself.

    Raises:
        InvalidArgumentError: a malformed name or value, or a sysctl of the host.
    """
    own = set(namespaces)
    found = {}
    for key, value in sysctls.items():
        path = path_of(key)
        kind = namespace_of(path)
        if not kind:
            raise InvalidArgumentError(f"sysctls: {key!r} is not namespaced")
        if kind not in own:
            raise InvalidArgumentError(
                f"sysctls: {key!r} would be the host's: the sandbox shares its {kind} namespace"
            )
        if not _VALUE.fullmatch(value) or len(value.encode()) > MAX_VALUE_BYTES:
            raise InvalidArgumentError(f"sysctls: {key!r} has a value with control characters or too long")
        found[path] = value
    return found
