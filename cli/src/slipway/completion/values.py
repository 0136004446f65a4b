"""What an option may have as its value, for completion: words that are the same on every node."""

import resource

CAPABILITIES = (
    *(
        "ALL",
        "AUDIT_CONTROL",
        "AUDIT_READ",
        "AUDIT_WRITE",
        "BLOCK_SUSPEND",
        "BPF",
        "CHECKPOINT_RESTORE",
        "CHOWN",
    ),
    *("DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE"),
    *(
        "LINUX_IMMUTABLE",
        "MAC_ADMIN",
        "MAC_OVERRIDE",
        "MKNOD",
        "NET_ADMIN",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
    ),
    *("NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT"),
    *("SYSLOG", "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME"),
    *("SYS_TTY_CONFIG", "WAKE_ALARM"),
)
"""Of linux/capability.h, as docker names them."""
_STATUS = tuple(f"status={word}" for word in ("created", "running", "paused", "exited", "unknown"))
_ULIMITS = tuple(
    f"{name.removeprefix('RLIMIT_').lower()}="
    for name in dir(resource)
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
)
_SIGNALS = ("HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM", "CONT", "STOP", "WINCH")
_BY_OPTION = {
    "--cap-add": CAPABILITIES,
    "--cap-drop": CAPABILITIES,
    "--ulimit": _ULIMITS,
    "--security-opt": ("no-new-privileges", "seccomp=unconfined", "apparmor=unconfined"),
    "--mount": ("type=bind,source=", "type=tmpfs,target=", "type=image,source="),
    "--signal": _SIGNALS,
    "--stop-signal": _SIGNALS,
    "--tail": ("all", "10", "100"),
    "--handler": ("crun", "runc", "runsc"),
}
_FILTERS = {
    "ps": (
        *("name=", "id=", "label=", "ancestor=", "pod=", "exited=", "origin=cri", "origin=command"),
        *_STATUS,
    ),
    "images": ("reference=", "id=", "dangling=true", "dangling=false"),
    "events": ("kind=", "verb=", "id=", "node="),
    "prune": ("until=24h", "until=7d"),
}
"""By the command."""


def values(verb: str, option: str) -> tuple[str, ...]:
    """The values that an option of a command may have, or begin with; none when they are not known here."""
    if option == "--filter":
        return _FILTERS.get("images" if verb == "ls" else verb, ())
    return _BY_OPTION.get(option, ())
