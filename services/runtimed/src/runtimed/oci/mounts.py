"""`mounts` of an OCI configuration, and the volumes that an image declares."""

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from common.errors import InvalidArgumentError
from runtimed.oci.sources import BIDIRECTIONAL, HOST_TO_CONTAINER, PRIVATE, Source

PROPAGATION = {PRIVATE: "rprivate", HOST_TO_CONTAINER: "rslave", BIDIRECTIONAL: "rshared"}
MOUNT_OPTIONS = frozenset({"noexec", "nodev", "nosuid"})
MAX_VOLUMES = 256
MAX_PATH_BYTES, MAX_NAME_BYTES = 4095, 255  # of Linux
_SHOWN = 64

Mount = dict[str, Any]


def check_length(field: str, path: str) -> None:
    """Refuse a path that no filesystem takes.

    Raises:
        InvalidArgumentError: it or a name in it is too long.
    """
    longest = max(len(name.encode()) for name in path.split("/"))
    if len(path.encode()) > MAX_PATH_BYTES or longest > MAX_NAME_BYTES:
        raise InvalidArgumentError(
            f"{field}: {path[:_SHOWN]!r}... has over {MAX_PATH_BYTES} bytes, or over {MAX_NAME_BYTES} in a name"
        )


def contained(field: str, path: str) -> str:
    """A container's path without detours.

    Raises:
        InvalidArgumentError: it is relative, leads upwards or is the root.
    """
    if not path.startswith("/") or ".." in path.split("/") or "\x00" in path:
        raise InvalidArgumentError(f"{field}: {path!r} is not absolute or leads upwards")
    check_length(field, path)
    clean = "/" + posixpath.normpath(path).lstrip("/")
    if clean == "/":
        raise InvalidArgumentError(f"{field}: {path!r} is the root directory")
    return clean


def build(
    container: Any,
    sources: Sequence[Source],
    *,
    shm_path: str,
    resolv_conf: str,
    hostname_file: str,
    hosts_file: str = "",
    tmpfs: Mapping[str, list[str]] = MappingProxyType({}),
) -> list[Mount]:
    """Defaults and the request's mounts, which replace defaults at the same path; parents before children.

    `sources` says what each mount of the request mounts, in their order.
    """
    context = container.linux.security_context
    found = {mount["destination"]: mount for mount in _defaults(writable_kernel=context.privileged)}
    found["/dev/shm"] = _bind("/dev/shm", shm_path or "/dev/shm", ["nosuid", "nodev", "noexec"])  # noqa: S108
    access = "ro" if context.readonly_rootfs else "rw"
    own = (("/etc/resolv.conf", resolv_conf), ("/etc/hostname", hostname_file), ("/etc/hosts", hosts_file))
    for path, file in own:
        if file:
            found[path] = _bind(path, file, ["rprivate", access])
    for path, options in tmpfs.items():
        found[path] = {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options}
    for mount, source in zip(container.mounts, sources, strict=True):
        path = contained("mounts.container_path", mount.container_path)
        found.pop(path, None)
        found[path] = _requested(path, mount, source)
    if "/sys" in {m.container_path.rstrip("/") for m in container.mounts}:
        found.pop("/sys/fs/cgroup", None)  # the mounted /sys brings its own
    # Stable: mounts of the same depth stay in the request's order.
    return sorted(found.values(), key=lambda mount: mount["destination"].count("/"))


def check_root(rootfs: str) -> None:
    """Refuse a root directory in which the kernel's filesystems would be mounted through a link. Blocking.

    runc before 1.2.8 makes files on the node through such a link.

    Raises:
        InvalidArgumentError: naming the directory.
    """
    for name in ("dev", "proc", "sys"):
        if (Path(rootfs) / name).is_symlink():
            raise InvalidArgumentError(f"image: /{name} is a symbolic link")


def _defaults(*, writable_kernel: bool) -> list[Mount]:
    access = "rw" if writable_kernel else "ro"
    safe = ["nosuid", "noexec", "nodev"]
    rows = [
        ("/proc", "proc", safe),
        ("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("/dev/mqueue", "mqueue", safe),
        ("/sys", "sysfs", [*safe, access]),
        ("/sys/fs/cgroup", "cgroup", [*safe, "relatime", access]),
    ]
    return [
        {"destination": path, "type": kind, "source": kind, "options": options}
        for path, kind, options in rows
    ]


def _bind(path: str, source: str, options: list[str]) -> Mount:
    return {"destination": path, "type": "bind", "source": source, "options": ["rbind", *options]}


def _requested(path: str, mount: Any, source: Source) -> Mount:
    # crun before 1.14.4 takes the target of a recursive option for a directory; below a file nothing is mounted
    recursive = mount.recursive_read_only and source.is_directory
    access = "rro" if recursive else "ro" if mount.readonly else "rw"
    options = [PROPAGATION[mount.propagation], access, *sorted(set(mount.mount_options))]
    found = _bind(path, source.path, options)
    if mount.uidMappings:
        found["uidMappings"] = [_mapping(mapping) for mapping in mount.uidMappings]
        found["gidMappings"] = [_mapping(mapping) for mapping in mount.gidMappings]
    return found


def _mapping(wanted: Any) -> dict[str, int]:
    return {"containerID": wanted.container_id, "hostID": wanted.host_id, "size": wanted.length}


def check(mount: Any) -> None:
    """Refuse a CRI mount that can never work.

    Raises:
        InvalidArgumentError: with the field's name and value.
    """
    contained("mounts.container_path", mount.container_path)
    check_length("mounts.host_path", mount.host_path)
    if mount.image.image:
        _check_image(mount)
    elif not mount.host_path.startswith("/") or "\x00" in mount.host_path:
        raise InvalidArgumentError(f"mounts.host_path: {mount.host_path!r} is not absolute")
    elif mount.image_sub_path:
        raise InvalidArgumentError(f"mounts.image_sub_path: {mount.image_sub_path!r} needs mounts.image")
    if mount.propagation not in PROPAGATION:
        raise InvalidArgumentError(f"mounts.propagation: {mount.propagation} is unknown")
    if mount.recursive_read_only and not (mount.readonly and mount.propagation == PRIVATE):
        raise InvalidArgumentError(
            f"mounts.recursive_read_only: {mount.container_path!r} needs readonly and private propagation"
        )
    unknown = set(mount.mount_options) - MOUNT_OPTIONS
    if unknown:
        raise InvalidArgumentError(f"mounts.mount_options: {min(unknown)!r} is unknown")


def _check_image(mount: Any) -> None:
    image, sub_path = mount.image.image, mount.image_sub_path
    if mount.host_path:
        raise InvalidArgumentError(f"mounts.host_path: {mount.host_path!r} beside mounts.image {image!r}")
    if not mount.readonly:
        raise InvalidArgumentError(f"mounts.readonly: image {image!r} can only be mounted read-only")
    if mount.propagation != PRIVATE:
        raise InvalidArgumentError(f"mounts.propagation: image {image!r} can only be mounted privately")
    if sub_path.startswith("/") or ".." in sub_path.split("/") or "\x00" in sub_path:
        raise InvalidArgumentError(f"mounts.image_sub_path: {sub_path!r} is absolute or leads upwards")
    check_length("mounts.image_sub_path", sub_path)


def rootfs_propagation(container: Any) -> str:
    """`linux.rootfsPropagation`: as open as the most open mount; "" for the runtime's own default."""
    wanted = max((mount.propagation for mount in container.mounts), default=PRIVATE)
    return {PRIVATE: "", HOST_TO_CONTAINER: "rslave", BIDIRECTIONAL: "rshared"}[wanted]


def image_volumes(image_config: dict[str, Any]) -> list[str]:
    """Paths of an image's VOLUMEs, parents first.

    Raises:
        InvalidArgumentError: a path leads out of the rootfs (CVE-2022-23648), or there are too many.
    """
    config = image_config.get("config") or image_config.get("Config") or {}
    volumes = config.get("Volumes") or {}
    if not isinstance(volumes, dict) or len(volumes) > MAX_VOLUMES:
        raise InvalidArgumentError(f"image config: Volumes is no object of at most {MAX_VOLUMES} paths")
    return sorted({contained("image VOLUME", "/" + str(path).lstrip("/")) for path in volumes})
