"""Seccomp, AppArmor, SELinux and hidden paths of a container."""

import functools
import json
import os
import platform
import re
from importlib import resources
from pathlib import Path
from typing import Any

from common.errors import InvalidArgumentError, NotFoundError, UnimplementedError
from common.sys.hostroot import HostRoot

RUNTIME_DEFAULT, UNCONFINED, LOCALHOST = 0, 1, 2  # SecurityProfile.ProfileType of CRI
MAX_PROFILE_BYTES = 1 << 20
ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_PROFILE_NAME = re.compile(r"[A-Za-z0-9_./@:{}+-]{1,255}")
_OCI_KEYS = ("defaultAction", "defaultErrnoRet", "architectures", "flags", "syscalls")


def hidden_paths(container: Any) -> tuple[list[str], list[str]]:
    """Masked and read-only paths. A kubelet always sends both lists, and empty ones mean none (procMount)."""
    context = container.linux.security_context
    if context.privileged:
        return [], []
    if not container.linux.HasField("security_context"):
        return list(MASKED_PATHS), list(READONLY_PATHS)
    return list(context.masked_paths), list(context.readonly_paths)


def profile_of(context: Any, field: str) -> tuple[int, str]:
    """Type and reference of `seccomp` or `apparmor`, from the new field or the deprecated one; absent is unconfined."""
    if context.HasField(field):
        profile = getattr(context, field)
        return profile.profile_type, profile.localhost_ref
    old = getattr(context, "seccomp_profile_path" if field == "seccomp" else "apparmor_profile", "")
    if old in {"runtime/default", "docker/default"}:
        return RUNTIME_DEFAULT, ""
    if old.startswith("localhost/"):
        return LOCALHOST, old.removeprefix("localhost/")
    if old not in {"", "unconfined"}:
        raise InvalidArgumentError(f"{field}: profile {old!r} is unknown")
    return UNCONFINED, ""


def seccomp(context: Any, caps: frozenset[str], profile_root: str, host: HostRoot) -> dict[str, Any] | None:
    """`linux.seccomp`, None for no filter.

    Raises:
        InvalidArgumentError: the profile is no seccomp profile, or lies elsewhere.
        NotFoundError: the profile is not there.
    """
    kind, reference = profile_of(context, "seccomp")
    if context.privileged or kind == UNCONFINED:
        return None
    if kind == RUNTIME_DEFAULT:
        return default_seccomp(caps)
    if kind == LOCALHOST:
        return _local_profile(reference, profile_root, host)
    raise InvalidArgumentError(f"seccomp: profile type {kind} is unknown")


@functools.lru_cache(maxsize=64)
def default_seccomp(caps: frozenset[str]) -> dict[str, Any]:
    """The default filter for a bounding set. Shared: do not change it."""
    machine = platform.machine()
    rules = []
    for rule in _default_profile()["syscalls"]:
        if "machine" in rule and machine not in rule["machine"]:
            continue
        if "caps" in rule and not caps.intersection(rule["caps"]):
            continue
        if caps.intersection(rule.get("unless", ())):
            continue
        rules.append({key: rule[key] for key in ("names", "action", "errnoRet", "args") if key in rule})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": list(ARCHITECTURES.get(machine, ())),
        "syscalls": rules,
    }


@functools.cache
def _default_profile() -> dict[str, Any]:
    text = resources.files("runtimed.oci").joinpath("seccomp_default.json").read_text(encoding="utf-8")
    profile: dict[str, Any] = json.loads(text)
    return profile


def _local_profile(reference: str, profile_root: str, host: HostRoot) -> dict[str, Any]:
    if not reference:
        raise InvalidArgumentError("seccomp.localhost_ref: is empty")
    path = Path(reference)
    if not path.is_absolute():
        path = Path(profile_root) / reference
        if ".." in path.parts or not profile_root:
            raise InvalidArgumentError(f"seccomp.localhost_ref: {reference!r} is not within {profile_root!r}")
    try:
        fd = os.open(host.here(str(path)), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
            raw = file.read(MAX_PROFILE_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"seccomp.localhost_ref: {reference!r}: profile not found at {path}") from error
    except OSError as error:
        raise InvalidArgumentError(f"seccomp.localhost_ref: {reference!r}: {error.strerror}") from error
    try:
        profile = json.loads(raw) if len(raw) <= MAX_PROFILE_BYTES else None
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"seccomp.localhost_ref: {reference!r} is no JSON: {error}") from error
    if not isinstance(profile, dict) or not isinstance(profile.get("defaultAction"), str):
        raise InvalidArgumentError(f"seccomp.localhost_ref: {reference!r} is no seccomp profile")
    return {key: profile[key] for key in _OCI_KEYS if key in profile}


def apparmor_profile(context: Any) -> str:
    """`process.apparmorProfile`, "" for none.

    Raises:
        UnimplementedError: a profile is wanted that this kernel cannot apply.
        InvalidArgumentError: the profile's name is malformed.
    """
    kind, reference = profile_of(context, "apparmor")
    if kind != LOCALHOST:
        # No profile of our own is loaded, so the runtime's default is no confinement.
        return ""
    name = reference.removeprefix("localhost/")
    if not _PROFILE_NAME.fullmatch(name):
        raise InvalidArgumentError(f"apparmor.localhost_ref: {reference!r} is no profile name")
    if not has_apparmor():
        raise UnimplementedError(f"apparmor: profile {name!r} is wanted, but this kernel has no AppArmor")
    return name


def selinux_labels(context: Any) -> tuple[str, str]:
    """`process.selinuxLabel` and `linux.mountLabel`; empty where the kernel enforces none, as elsewhere."""
    options = context.selinux_options
    wanted = (options.user, options.role, options.type, options.level)
    for value in wanted:
        if re.search(r"[\s\x00-\x1f,/]", value.replace(",", "", 1) if value == options.level else value):
            raise InvalidArgumentError(f"selinux_options: {value!r} is no part of a label")
    if not any(wanted) or context.privileged or not has_selinux():
        return "", ""
    user, level = options.user or "system_u", options.level or "s0"
    process = f"{user}:{options.role or 'system_r'}:{options.type or 'container_t'}:{level}"
    return process, f"{user}:object_r:container_file_t:{level}"


@functools.cache
def has_apparmor() -> bool:
    try:
        return Path("/sys/module/apparmor/parameters/enabled").read_text(encoding="ascii").startswith("Y")
    except OSError:
        return False


@functools.cache
def has_selinux() -> bool:
    return Path("/sys/fs/selinux/enforce").exists()
