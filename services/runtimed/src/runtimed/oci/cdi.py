"""Devices of the Container Device Interface: what a container asks for, and the edits of its OCI configuration."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import InvalidArgumentError, NotFoundError, UnimplementedError
from common.sys.hostroot import HostRoot
from runtimed.oci import cdispecs
from runtimed.oci.cdispecs import DeviceNode, Edits

ANNOTATION = "cdi.k8s.io/"


def requested(container: Any) -> list[str]:
    """Qualified names that the field and the annotations ask for, each once.

    Raises:
        InvalidArgumentError: a name is none.
    """
    names = [device.name for device in container.CDI_devices]
    for key, value in sorted(container.annotations.items()):
        if key.startswith(ANNOTATION):
            names += [part.strip() for part in value.split(",")]
    for name in names:
        cdispecs.check_name(name)
    return list(dict.fromkeys(names))


def apply(config: dict[str, Any], names: Sequence[str], directories: Sequence[str], host: HostRoot) -> None:
    """Change an OCI configuration so that it has the devices. Blocking: reads the directories and host devices.

    Raises:
        NotFoundError: no specification has a device.
        InvalidArgumentError: a device's node on the host is missing, or is another than its specification says.
        UnimplementedError: a device needs what this node does not offer.
    """
    if not names:
        return
    found = cdispecs.find([host.here(directory) for directory in directories])
    seen = []
    for name in names:
        if name not in found.devices:
            problems = "".join(f"; {problem}" for problem in found.problems)
            raise NotFoundError(f"CDI_devices: {name!r} is in none of {', '.join(directories)}{problems}")
        spec, device = found.devices[name]
        if spec not in seen:
            seen.append(spec)
            _edit(config, name, spec.container_edits, host)
        _edit(config, name, device.container_edits, host)


def _edit(config: dict[str, Any], name: str, edits: Edits, host: HostRoot) -> None:
    if edits.net_devices:
        raise UnimplementedError(f"CDI_devices: {name!r}: netDevices are not offered")
    process, linux = config["process"], config["linux"]
    for variable in edits.env:
        key = variable.partition("=")[0] + "="
        process["env"] = [*(item for item in process["env"] if not item.startswith(key)), variable]
    for node in edits.device_nodes:
        _add_node(config, name, node, host)
    for mount in edits.mounts:
        kind = mount.type or "bind"
        options = mount.options
        if kind == "bind" and not {"bind", "rbind"} & set(options):
            options = ["rbind", *options]
        source = host.here(mount.host_path) if mount.host_path.startswith("/") else mount.host_path
        entry = {"destination": mount.container_path, "type": kind, "source": source}
        config["mounts"] = _replaced(config["mounts"], "destination", entry | {"options": options})
    # stable: mounts of the same depth stay as they came
    config["mounts"].sort(key=lambda mount: mount["destination"].rstrip("/").count("/"))
    for hook in edits.hooks:
        timeout = {"timeout": hook.timeout} if hook.timeout else {}
        call = {"path": hook.path, "args": hook.args, "env": hook.env, **timeout}
        config.setdefault("hooks", {}).setdefault(hook.hook_name, []).append(call)
    if edits.additional_gids:
        groups = process["user"].get("additionalGids", [])
        wanted = [gid for gid in edits.additional_gids if gid]
        process["user"]["additionalGids"] = list(dict.fromkeys([*groups, *wanted]))
    if edits.intel_rdt:
        linux["intelRdt"] = edits.intel_rdt


def _replaced(items: list[dict[str, Any]], key: str, new: dict[str, Any]) -> list[dict[str, Any]]:
    return [*(item for item in items if item[key] != new[key]), new]


def _add_node(config: dict[str, Any], name: str, node: DeviceNode, host: HostRoot) -> None:
    kind, major, minor = _identity(name, node, host)
    user = config["process"]["user"]
    made: dict[str, Any] = {"path": node.path, "type": kind}
    if kind != "p":
        made |= {"major": major, "minor": minor}
    owners = {
        "fileMode": node.file_mode,
        "uid": node.uid if node.uid is not None else user.get("uid") or None,
        "gid": node.gid if node.gid is not None else user.get("gid") or None,
    }
    made |= {key: value for key, value in owners.items() if value is not None}
    linux = config["linux"]
    linux["devices"] = _replaced(linux["devices"], "path", made)
    if kind in {"b", "c"} and node.permissions != cdispecs.NO_ACCESS:
        rule = {"allow": True, "type": kind, "major": major, "minor": minor}
        linux["resources"]["devices"].append(rule | {"access": node.permissions or "rwm"})


def _identity(name: str, node: DeviceNode, host: HostRoot) -> tuple[str, int, int]:
    """Type and number of a device node: as the specification says, or else as on the host."""
    if node.type and (node.major or node.type == "p"):
        return node.type, node.major, node.minor
    path = node.host_path or node.path
    try:
        status = Path(host.here(path)).stat()
    except OSError as error:
        raise InvalidArgumentError(f"CDI_devices: {name!r}: {path}: {error.strerror}") from error
    kinds = ((stat.S_ISCHR, "c"), (stat.S_ISBLK, "b"), (stat.S_ISFIFO, "p"))
    kind = next((letter for test, letter in kinds if test(status.st_mode)), "")
    if not kind or node.type not in {"", kind, "u" if kind == "c" else kind}:
        raise InvalidArgumentError(
            f"CDI_devices: {name!r}: {path} is no device of type {node.type or 'b or c'!r}"
        )
    return (
        kind,
        node.major or os.major(status.st_rdev),
        node.minor if node.major else os.minor(status.st_rdev),
    )
