"""Capabilities: their names, the default set, and what a request makes of it."""

from typing import Any

from common.errors import InvalidArgumentError
from common.sys import linux

# In the order of linux/capability.h: the index is the number.
NAMES = tuple(
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ]
)
DEFAULT = frozenset(
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
)


_NOT_IN_GVISOR = frozenset({"CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"})
"""Those of Linux 5.8 and 5.9: runsc starts nothing that has one of them."""


def of_handler(host_caps: frozenset[str], *, sandboxed: bool) -> frozenset[str]:
    """What of this process's capabilities exists where the containers of a handler run."""
    return host_caps - _NOT_IN_GVISOR if sandboxed else host_caps


def host_capabilities() -> frozenset[str]:
    """Names of what this process has and may pass on."""
    return frozenset(NAMES[bit] for bit in linux.effective_capabilities() if bit < len(NAMES))


def parse(field: str, name: str) -> str:
    """CAP_NET_ADMIN for NET_ADMIN, cap_net_admin and so on; ALL for ALL.

    Raises:
        InvalidArgumentError: no such capability.
    """
    upper = name.upper()
    if upper in {"ALL", "CAP_ALL"}:
        return "ALL"
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in NAMES:
        raise InvalidArgumentError(f"{field}: unknown capability {name!r}")
    return full


def resolve(context: Any, host_caps: frozenset[str]) -> dict[str, list[str]]:
    """`process.capabilities` for CRI's LinuxContainerSecurityContext.

    ALL in add, then ALL in drop set the base; single names are added, then dropped, so a dropped name wins.
    "All" means all that the runtime has. Inheritable stays empty (CVE-2022-24769) but for ambient
    capabilities, which the kernel accepts only from there.
    """
    request = context.capabilities
    add = {parse("add_capabilities", name) for name in request.add_capabilities}
    drop = {parse("drop_capabilities", name) for name in request.drop_capabilities}
    ambient = {parse("add_ambient_capabilities", name) for name in request.add_ambient_capabilities}
    base = set(host_caps) if context.privileged or "ALL" in add else set(DEFAULT)
    if not context.privileged:
        if "ALL" in drop:
            base = set()
        base = (base | add | ambient) - drop
    bounding = in_order(base & host_caps)
    raised = bounding if "ALL" in ambient else in_order(ambient & set(bounding))
    return {
        "bounding": bounding,
        "effective": bounding,
        "permitted": bounding,
        "inheritable": raised,
        "ambient": raised,
    }


def in_order(caps: set[str] | frozenset[str]) -> list[str]:
    return [name for name in NAMES if name in caps]
