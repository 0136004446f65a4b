"""Rights and limits of this machine: capabilities, sysctls, what a crash does."""

import re

from slipway.doctor.finding import Finding, Level, Machine

CAP_SYS_RESOURCE = 24
NEEDED = {
    0: "CHOWN", 1: "DAC_OVERRIDE", 3: "FOWNER", 5: "KILL", 6: "SETGID", 7: "SETUID", 8: "SETPCAP",
    12: "NET_ADMIN", 18: "SYS_CHROOT", 21: "SYS_ADMIN", 27: "MKNOD",
}  # fmt: skip
SYSCTLS = (
    ("vm.max_map_count", 262_144, "databases such as Elasticsearch refuse to start"),
    (
        "fs.inotify.max_user_instances",
        1024,
        "`too many open files` of programs that watch files, from some 100 pods on",
    ),
    ("fs.inotify.max_user_watches", 524_288, "`no space left on device` of programs that watch many files"),
    (
        "kernel.keys.maxkeys",
        2000,
        "containers fail to start with a session keyring, from some 100 of a user on",
    ),
    ("kernel.pid_max", 65_536, "`resource temporarily unavailable` on a node with many processes"),
)
"""Name, the least that a full node wants, and what happens below it."""


def capabilities(machine: Machine) -> Finding:
    found = re.search(r"^CapBnd:\s*([0-9a-f]+)", machine.read("/proc/self/status"), re.MULTILINE)
    held = int(found[1], 16) if found else 0
    missing = [f"CAP_{name}" for bit, name in NEEDED.items() if not held >> bit & 1]
    if missing:
        fix = "Give them to the services, as deploy/compose.yml does."
        return Finding("capabilities", Level.FAIL, f"without {', '.join(missing)}", fix)
    if not held >> CAP_SYS_RESOURCE & 1:
        text = "without CAP_SYS_RESOURCE: oom_score_adj is not lowered below the services' own, nor hard rlimits raised"
        return Finding("capabilities", Level.WARN, text, "Give it to runtimed and shimd.")
    return Finding("capabilities", Level.OK, "all that are needed")


def sysctls(machine: Machine) -> list[Finding]:
    return [_sysctl(machine, *row) for row in SYSCTLS]


def _sysctl(machine: Machine, name: str, least: int, below: str) -> Finding:
    value = machine.number("/proc/sys/" + name.replace(".", "/"))
    if value is None:
        return Finding(name, Level.NOTE, "not in this kernel")
    if value < least:
        return Finding(name, Level.NOTE, f"{value}: {below}", f"sysctl -w {name}={least}")
    return Finding(name, Level.OK, str(value))


def core_pattern(machine: Machine) -> Finding:
    pattern = machine.read("/proc/sys/kernel/core_pattern")
    if pattern.startswith("|"):
        text = f"a crash in a container runs {pattern[1:].split(' ')[0]} on the node, as root"
        return Finding("core dumps", Level.NOTE, text, "Look whether that program knows containers.")
    if not pattern.startswith("/"):
        text = (
            f"{pattern!r}: a crash leaves its file in the container's working directory, and takes its disk"
        )
        return Finding(
            "core dumps", Level.NOTE, text, "Set kernel.core_pattern to a path, or ulimit core to 0."
        )
    return Finding("core dumps", Level.OK, pattern)


CHECKS = (capabilities, sysctls, core_pattern)
