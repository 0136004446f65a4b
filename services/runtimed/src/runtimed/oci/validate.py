"""What of a CRI request is refused before anything is made."""

import ipaddress
import re
from typing import Any

from common.errors import InvalidArgumentError, UnimplementedError
from runtimed.network import bandwidth, hostports
from runtimed.oci import (
    capabilities,
    cdi,
    cgroups,
    devices,
    idmaps,
    mounts,
    process,
    security,
    sysctls,
    users,
)

POD, CONTAINER, NODE, TARGET = 0, 1, 2, 3  # NamespaceMode of CRI
MAX_PORT = 65535
MAX_HOSTNAME = 64
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_DNS_WORD = re.compile(r"[^\s\x00-\x1f\x7f#;]+")


def validate_sandbox(config: Any) -> None:
    """Refuse a PodSandboxConfig that can never work.

    Raises:
        InvalidArgumentError: with the field's name and value.
        UnimplementedError: with the name of what is not offered.
    """
    if config.HasField("windows"):
        raise UnimplementedError("windows: only Linux sandboxes are offered")
    if not config.HasField("metadata") or not config.metadata.name:
        raise InvalidArgumentError("metadata.name: is empty")
    if config.hostname and (len(config.hostname) > MAX_HOSTNAME or not _HOSTNAME.fullmatch(config.hostname)):
        raise InvalidArgumentError(
            f"hostname: {config.hostname!r} is no host name of at most {MAX_HOSTNAME} bytes"
        )
    if config.log_directory:
        mounts.contained("log_directory", config.log_directory)
    for mapping in config.port_mappings:
        _check_port(mapping)
    for field in ("servers", "searches", "options"):
        for value in getattr(config.dns_config, field):
            if not _DNS_WORD.fullmatch(value):
                raise InvalidArgumentError(
                    f"dns_config.{field}: {value!r} has a space or a control character"
                )
    hostports.wanted(config)
    bandwidth.limits(dict(config.annotations))
    context = config.linux.security_context
    _check_namespaces(context.namespace_options, {POD, CONTAINER, NODE})
    idmaps.of_sandbox(config)
    sysctls.check(dict(config.linux.sysctls), own_namespaces(config))
    security.profile_of(context, "seccomp")
    security.apparmor_profile(context)
    _check_parent(config.linux.cgroup_parent)


def _check_parent(parent: str) -> None:
    if ".." in parent.split("/") or "\0" in parent or "\n" in parent:
        raise InvalidArgumentError(f"linux.cgroup_parent: {parent!r} leads upwards or names no cgroup")
    mounts.check_length("linux.cgroup_parent", parent)


def own_namespaces(config: Any) -> tuple[str, ...]:
    """OCI types that a sandbox has for itself: all but what its options share with the node."""
    options = config.linux.security_context.namespace_options
    network = () if options.network == NODE else ("network", "uts")
    return network if options.ipc == NODE else (*network, "ipc")


def validate_container(config: Any, sandbox_config: Any) -> None:
    """Refuse a ContainerConfig that can never work.

    Raises:
        InvalidArgumentError: with the field's name and value.
        UnimplementedError: with the name of what is not offered.
    """
    if config.HasField("windows"):
        raise UnimplementedError("windows: only Linux containers are offered")
    if not config.HasField("metadata") or not config.metadata.name:
        raise InvalidArgumentError("metadata.name: is empty")
    log_path = config.log_path
    if log_path.startswith("/") or ".." in log_path.split("/") or "\0" in log_path:
        raise InvalidArgumentError(f"log_path: {log_path!r} leads out of the log directory or names no file")
    mounts.check_length("log_path", log_path)
    process.check_strings(config.command, config.args, config.envs)
    for mount in config.mounts:
        _check_mount(mount)
    for device in config.devices:
        devices.check(device)
    cdi.requested(config)
    process.directory(config.working_dir, {})
    resources = config.linux.resources
    cgroups.resources(resources, cgroups.detect())
    if not process.MIN_OOM <= resources.oom_score_adj <= process.MAX_OOM:
        raise InvalidArgumentError(f"oom_score_adj: {resources.oom_score_adj} is not within -1000..1000")
    _check_security(config.linux.security_context, sandbox_config)
    idmaps.check_container(config, sandbox_config)


def _check_security(context: Any, sandbox_config: Any) -> None:
    _check_namespaces(context.namespace_options, {POD, CONTAINER, NODE, TARGET})
    if context.privileged and not sandbox_config.linux.security_context.privileged:
        raise InvalidArgumentError("privileged: the sandbox is not")
    if context.HasField("run_as_user"):
        users.check_id("run_as_user", context.run_as_user.value)
    if context.HasField("run_as_group"):
        users.check_id("run_as_group", context.run_as_group.value)
        if not context.HasField("run_as_user") and not context.run_as_username:
            raise InvalidArgumentError("run_as_group: needs run_as_user or run_as_username")
    for group in context.supplemental_groups:
        users.check_id("supplemental_groups", group)
    for field in ("add_capabilities", "drop_capabilities", "add_ambient_capabilities"):
        for name in getattr(context.capabilities, field):
            capabilities.parse(field, name)
    for field in ("masked_paths", "readonly_paths"):
        for path in getattr(context, field):
            mounts.contained(field, path)
    security.profile_of(context, "seccomp")
    security.apparmor_profile(context)
    security.selinux_labels(context)


def _check_namespaces(options: Any, pid_modes: set[int]) -> None:
    for field in ("network", "ipc"):
        if getattr(options, field) not in {POD, NODE}:
            raise InvalidArgumentError(
                f"namespace_options.{field}: mode {getattr(options, field)} is neither POD nor NODE"
            )
    if options.pid not in pid_modes:
        raise InvalidArgumentError(
            f"namespace_options.pid: mode {options.pid} is none of {sorted(pid_modes)}"
        )
    if options.pid == TARGET and not options.target_id:
        raise InvalidArgumentError("namespace_options.target_id: is empty, but pid is TARGET")


def _check_mount(mount: Any) -> None:
    if mount.selinux_relabel and security.has_selinux():
        raise UnimplementedError(f"mounts.selinux_relabel: {mount.host_path!r}: relabelling is not offered")
    mounts.check(mount)


def _check_port(mapping: Any) -> None:
    if mapping.protocol not in {0, 1, 2}:
        raise InvalidArgumentError(f"port_mappings.protocol: {mapping.protocol} is unknown")
    if not 0 <= mapping.host_port <= MAX_PORT or not 0 <= mapping.container_port <= MAX_PORT:
        raise InvalidArgumentError(
            f"port_mappings: {mapping.host_port} → {mapping.container_port} is not within 0..{MAX_PORT}"
        )
    if mapping.host_port and not mapping.container_port:
        raise InvalidArgumentError(
            f"port_mappings.container_port: is missing for host port {mapping.host_port}"
        )
    if mapping.host_ip:
        try:
            ipaddress.ip_address(mapping.host_ip)
        except ValueError as error:
            raise InvalidArgumentError(f"port_mappings.host_ip: {mapping.host_ip!r} is no address") from error
