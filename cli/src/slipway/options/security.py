"""Who a container runs as and what it may do, from the options of `run`."""

from argparse import Namespace
from pathlib import Path

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError

MASKED_PATHS = (
    *("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"),
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
MAX_UID = 2**31 - 1
_OPTIONS = "no-new-privileges, seccomp=unconfined, seccomp=FILE, apparmor=unconfined or apparmor=PROFILE"


def namespaces(options: Namespace) -> cri.NamespaceOption:
    """What of the node it shares."""
    return cri.NamespaceOption(
        network=cri.NODE if options.network == "host" else cri.POD,
        pid=cri.NODE if options.pid == "host" else cri.CONTAINER,
        ipc=cri.NODE if options.ipc == "host" else cri.POD,
    )


def secure(security: cri.LinuxContainerSecurityContext, options: Namespace) -> None:
    """Set all that the options say.

    Raises:
        InvalidArgumentError: naming the option and its value.
    """
    security.privileged = options.privileged
    security.readonly_rootfs = options.read_only
    security.namespace_options.CopyFrom(namespaces(options))
    security.capabilities.add_capabilities.extend(options.cap_add)
    security.capabilities.drop_capabilities.extend(options.cap_drop)
    if not options.privileged:
        # CRI takes empty lists for "none", so the defaults have to be spelled out.
        security.masked_paths.extend(MASKED_PATHS)
        security.readonly_paths.extend(READONLY_PATHS)
        security.seccomp.profile_type = cri.SecurityProfile.RuntimeDefault
    for text in options.security_opt:
        _confine(security, text)
    run_as(security, options.user)
    for group in options.group_add:
        if not _is_id(group):
            message = f"--group-add {group!r}: want a number, {MAX_UID} at most"
            raise InvalidArgumentError(message)
        security.supplemental_groups.append(int(group))


def run_as(security: cri.LinuxContainerSecurityContext, text: str) -> None:
    """Set the user of `UID[:GID]` or `NAME[:GID]`.

    Raises:
        InvalidArgumentError: the group is no number, which is all that CRI has.
    """
    user, _, group = text.partition(":")
    if _is_id(user):
        security.run_as_user.value = int(user)
    else:
        security.run_as_username = user
    if group:
        if not _is_id(group):
            message = f"--user {text!r}: the group has to be a number, {MAX_UID} at most"
            raise InvalidArgumentError(message)
        security.run_as_group.value = int(group)


def _confine(security: cri.LinuxContainerSecurityContext, text: str) -> None:
    key, joint, value = text.partition("=")
    if not joint:
        key, _, value = text.partition(":")  # docker's older form
    match (key, value):
        case ("no-new-privileges", "" | "true" | "false"):
            security.no_new_privs = value != "false"
        case ("seccomp" | "apparmor", "unconfined"):
            getattr(security, key).profile_type = cri.SecurityProfile.Unconfined
        case ("seccomp", path) if path and Path(path).is_file():
            security.seccomp.profile_type = cri.SecurityProfile.Localhost
            security.seccomp.localhost_ref = str(Path(path).absolute())
        case ("seccomp", path) if path:
            message = f"--security-opt {text!r}: there is no file {path!r}"
            raise InvalidArgumentError(message)
        case ("apparmor", profile) if profile:
            security.apparmor.profile_type = cri.SecurityProfile.Localhost
            security.apparmor.localhost_ref = profile
        case _:
            message = f"--security-opt {text!r}: want {_OPTIONS}"
            raise InvalidArgumentError(message)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) <= MAX_UID
