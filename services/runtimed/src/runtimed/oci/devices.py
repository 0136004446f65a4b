"""Device nodes of a container, and the rules of its device cgroup."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import InvalidArgumentError
from common.sys.hostroot import HostRoot
from runtimed.oci.mounts import contained

MAX_DEVICES = 4096
# Those that the OCI runtime makes in every container by itself.
ALWAYS_THERE = frozenset({"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"})
# Under /dev, but no devices of the machine.
SKIPPED = frozenset({"pts", "shm", "fd", "mqueue", "hugepages", ".lxc", ".lxd-mounts", ".udev"})

Device = dict[str, Any]


def build(container: Any, host: HostRoot) -> tuple[list[Device], list[dict[str, Any]]]:
    """`linux.devices` and `linux.resources.devices`. Reads the host's /dev.

    Raises:
        InvalidArgumentError: a host device is not there, naming it.
    """
    context = container.linux.security_context
    nodes: dict[str, Device] = {}
    rules: list[dict[str, Any]] = []
    if context.privileged:
        nodes = {node["path"]: node for node in _host_devices()}
        rules = [{"allow": True, "access": "rwm"}]
    else:
        rules = [{"allow": False, "access": "rwm"}, *_default_rules()]
    for wanted in container.devices:
        for node in _requested(wanted, host):
            nodes[node["path"]] = node
            if not context.privileged:
                rules.append(_rule(node["type"], node["major"], node["minor"], wanted.permissions or "rwm"))
    return list(nodes.values()), rules


def check(wanted: Any) -> None:
    """Refuse a malformed CRI device."""
    contained("devices.container_path", wanted.container_path)
    if not wanted.host_path.startswith("/"):
        raise InvalidArgumentError(f"devices.host_path: {wanted.host_path!r} is not absolute")
    if set(wanted.permissions) - set("rwm") or len(set(wanted.permissions)) != len(wanted.permissions):
        raise InvalidArgumentError(f"devices.permissions: {wanted.permissions!r} is no set of r, w and m")


def _rule(kind: str, major: int | None, minor: int | None, access: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
    if major is not None:
        rule["major"] = major
    if minor is not None:
        rule["minor"] = minor
    return rule


def _default_rules() -> Iterator[dict[str, Any]]:
    """Mknod of any device (useless without a rule of its own), and use of the harmless ones."""
    yield _rule("c", None, None, "m")
    yield _rule("b", None, None, "m")
    memory = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9))  # null zero full random urandom
    for major, minor in (*memory, (5, 0), (5, 1), (5, 2)):  # tty console ptmx
        yield _rule("c", major, minor, "rwm")
    yield _rule("c", 136, None, "rwm")  # pts


def _requested(wanted: Any, host: HostRoot) -> list[Device]:
    target = contained("devices.container_path", wanted.container_path)
    try:
        source = Path(host.here(wanted.host_path))
        if source.is_dir():
            found = [_node(path, f"{target}/{path.relative_to(source)}") for path in _walk(source)]
        else:
            found = [_node(source, target)]
    except OSError as error:
        raise InvalidArgumentError(f"devices.host_path: {wanted.host_path}: {error.strerror}") from error
    nodes = [node for node in found if node is not None]
    if not nodes:
        raise InvalidArgumentError(f"devices.host_path: {wanted.host_path} is no device")
    return nodes


def _host_devices() -> Iterator[Device]:
    for path in _walk(Path("/dev")):
        if path.parent == Path("/dev") and path.name in ALWAYS_THERE:
            continue
        try:
            node = _node(path, str(path))
        except OSError:
            continue  # unplugged meanwhile
        if node is not None:
            yield node


def _walk(directory: Path) -> Iterator[Path]:
    count = 0
    for parent, names, files in os.walk(directory):
        names[:] = sorted(set(names) - SKIPPED)
        for name in sorted(files):
            path = Path(parent) / name
            if not path.is_symlink():
                count += 1
                yield path
            if count > MAX_DEVICES:
                raise InvalidArgumentError(f"devices: {directory} has more than {MAX_DEVICES}")


def _node(source: Path, target: str) -> Device | None:
    status = source.stat()
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        return None
    return {
        "path": target,
        "type": "c" if stat.S_ISCHR(status.st_mode) else "b",
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
