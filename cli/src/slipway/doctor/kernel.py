"""The kernel: what containers are made of."""

import os
import re

from slipway.doctor.finding import Finding, Level, Machine

MAPPED = (5, 19)
"""The first kernel whose overlayfs takes mapped layers, which user namespaces of pods need."""
RECURSIVE = (5, 12)
"""The first kernel with recursive read-only and mapped mounts."""


def version(machine: Machine) -> Finding:
    text = machine.read("/proc/sys/kernel/osrelease") or os.uname().release
    found = _numbers(text)
    if found < RECURSIVE:
        fix = "Take a kernel of 5.12 or newer."
        return Finding("kernel", Level.WARN, f"{text}: no recursive read-only mounts", fix)
    if found < MAPPED:
        fix = "Take a kernel of 5.19 or newer if pods need user namespaces."
        return Finding("kernel", Level.NOTE, f"{text}: no user namespaces for pods", fix)
    return Finding("kernel", Level.OK, text)


def _numbers(text: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def overlayfs(machine: Machine) -> Finding:
    if "overlay" in machine.read("/proc/filesystems").split():
        return Finding("overlayfs", Level.OK, "there")
    if machine.snapshotter == "native":
        return Finding("overlayfs", Level.OK, 'not loaded, and not needed: snapshotter = "native"')
    release = machine.read("/proc/sys/kernel/osrelease") or os.uname().release
    modules = machine.read(f"/lib/modules/{release}/modules.dep")
    may_load = machine.read("/proc/sys/kernel/modules_disabled") != "1"
    if may_load and "/overlay.ko" in modules:
        return Finding("overlayfs", Level.OK, "a module, which the first mount loads")
    fix = 'Run `modprobe overlay`, or set snapshotter = "native" for snapshotd.'
    if may_load and not modules:  # as in a container, which sees no modules of its machine
        text = "not loaded, and no list of modules tells whether a mount can load it"
        return Finding("overlayfs", Level.WARN, text, fix)
    return Finding("overlayfs", Level.FAIL, "not in this kernel, or its module cannot be loaded", fix)


def user_namespaces(machine: Machine) -> Finding:
    most = machine.number("/proc/sys/user/max_user_namespaces")
    if most is None:
        return Finding("user namespaces", Level.NOTE, "not in this kernel: pods cannot ask for them")
    if most == 0:
        fix = "sysctl -w user.max_user_namespaces=65536"
        return Finding("user namespaces", Level.WARN, "turned off: max_user_namespaces is 0", fix)
    return Finding("user namespaces", Level.OK, f"up to {most}")


def seccomp(machine: Machine) -> Finding:
    actions = machine.read("/proc/sys/kernel/seccomp/actions_avail").split()
    if "errno" in actions:
        return Finding("seccomp", Level.OK, "there")
    fix = "Take a kernel with CONFIG_SECCOMP_FILTER; until then only unconfined containers start."
    return Finding("seccomp", Level.FAIL, "not in this kernel", fix)


def security_modules(machine: Machine) -> Finding:
    parts = []
    if machine.read("/sys/module/apparmor/parameters/enabled") == "Y":
        parts.append("AppArmor")
    enforcing = machine.read("/sys/fs/selinux/enforce")
    if enforcing:
        parts.append("SELinux, enforcing" if enforcing == "1" else "SELinux, permissive")
    if parts:
        return Finding("security modules", Level.OK, ", ".join(parts))
    return Finding(
        "security modules", Level.NOTE, "no AppArmor and no SELinux: pods cannot be confined by them"
    )


def pressure(machine: Machine) -> Finding:
    if machine.read("/proc/pressure/memory"):
        return Finding("PSI", Level.OK, "there: pressure is told before memory runs out")
    fix = "Boot with psi=1 for node.pressure events of CPU, memory and I/O."
    return Finding("PSI", Level.NOTE, "not in this kernel, or off", fix)


CHECKS = (version, overlayfs, user_namespaces, seccomp, security_modules, pressure)
