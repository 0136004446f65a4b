"""User namespaces that pods and mounts ask for: one contiguous mapping each, the same all over a pod."""

from collections.abc import Sequence
from typing import Any

from common.errors import InvalidArgumentError, UnimplementedError
from common.sys.userns import IdMapping, IdMappings

POD, NODE = 0, 2  # NamespaceMode of CRI
MAX_ID = 2**32 - 2  # the last one means "none" (linux/uidgid.h)
_FIELD = "namespace_options.userns_options"


def of_sandbox(config: Any) -> IdMappings | None:
    """What a PodSandboxConfig maps; None for the node's own user namespace.

    Raises:
        InvalidArgumentError: the mappings cannot be, with their values.
        UnimplementedError: it is to share another namespace with the node.
    """
    options = config.linux.security_context.namespace_options
    found = _of_options(options)
    if found:
        for field in ("network", "pid", "ipc"):
            if getattr(options, field) == NODE:
                raise UnimplementedError(
                    f"{_FIELD}: is not offered together with the node's {field} namespace"
                )
    return found


def check_container(config: Any, sandbox_config: Any) -> None:
    """Refuse a ContainerConfig whose mappings are not its sandbox's.

    Raises:
        InvalidArgumentError: with the field's name.
        UnimplementedError: it is to share the node's PID namespace all the same.
    """
    wanted = of_sandbox(sandbox_config)
    options = config.linux.security_context.namespace_options
    if options.HasField("userns_options") and _of_options(options) != wanted:
        raise InvalidArgumentError(f"{_FIELD}: differ from the sandbox's")
    if wanted and options.pid == NODE:
        raise UnimplementedError(f"namespace_options.pid: NODE is not offered in a pod with {_FIELD}")
    for mount in config.mounts:
        if mount.uidMappings or mount.gidMappings:
            name = f"mounts.{{}}: of {mount.container_path!r}"
            found = _mappings(mount.uidMappings, mount.gidMappings, name)
            if found != wanted:
                raise InvalidArgumentError(
                    f"mounts.uidMappings: {mount.container_path!r}: differ from the sandbox's"
                )


def to_oci(mapping: IdMapping) -> list[dict[str, int]]:
    """`uidMappings` or `gidMappings` of an OCI configuration."""
    return [{"containerID": mapping.container_id, "hostID": mapping.host_id, "size": mapping.size}]


def _of_options(options: Any) -> IdMappings | None:
    wanted = options.userns_options
    if not options.HasField("userns_options") or wanted.mode == NODE:
        if wanted.uids or wanted.gids:
            raise InvalidArgumentError(f"{_FIELD}: has mappings, but its mode is NODE")
        return None
    if wanted.mode != POD:
        raise InvalidArgumentError(f"{_FIELD}.mode: {wanted.mode} is neither POD nor NODE")
    return _mappings(wanted.uids, wanted.gids, f"{_FIELD}.{{}}")


def _mappings(uids: Sequence[Any], gids: Sequence[Any], name: str) -> IdMappings:
    return IdMappings(_one(uids, name.format("uids")), _one(gids, name.format("gids")))


def _one(wanted: Sequence[Any], name: str) -> IdMapping:
    if len(wanted) != 1:
        raise InvalidArgumentError(f"{name}: {len(wanted)} mappings are given, exactly one is offered")
    found = IdMapping(wanted[0].container_id, wanted[0].host_id, wanted[0].length)
    if not found.size:
        raise InvalidArgumentError(f"{name}: length is 0")
    if found.container_id:
        raise InvalidArgumentError(
            f"{name}: container_id is {found.container_id}, but root must be mapped: 0"
        )
    if found.host_id + found.size - 1 > MAX_ID:
        raise InvalidArgumentError(f"{name}: {found.size} ids from {found.host_id} on pass {MAX_ID}")
    if not found.host_id:
        raise InvalidArgumentError(f"{name}: host_id is 0, the node's own root")
    return found
