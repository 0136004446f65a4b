"""`mounts` of an OCI configuration, and the volumes that an image declares."""

import posixpath
from pathlib import Path
from typing import Any

from common.errors import InvalidArgumentError

PRIVATE, HOST_TO_CONTAINER, BIDIRECTIONAL = 0, 1, 2  # MountPropagation of CRI
PROPAGATION = {PRIVATE: "rprivate", HOST_TO_CONTAINER: "rslave", BIDIRECTIONAL: "rshared"}
MOUNT_OPTIONS = frozenset({"noexec", "nodev", "nosuid"})
MAX_VOLUMES = 256

# A directory made in the place of these would break the node; they are files, never made.
NEVER_MADE = frozenset({"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"})

Mount = dict[str, Any]


def contained(field: str, path: str) -> str:
    """A container's path without detours.

    Raises:
        InvalidArgumentError: it is relative, leads upwards or is the root.
    """
    if not path.startswith("/") or ".." in path.split("/") or "\x00" in path:
        raise InvalidArgumentError(f"{field}: {path!r} is not absolute or leads upwards")
    clean = "/" + posixpath.normpath(path).lstrip("/")
    if clean == "/":
        raise InvalidArgumentError(f"{field}: {path!r} is the root directory")
    return clean


def build(
    container: Any,
    *,
    shm_path: str,
    resolv_conf: str,
    hostname_file: str,
) -> list[Mount]:
    """Defaults and the request's mounts, which replace defaults at the same path; parents before children."""
    context = container.linux.security_context
    found = {mount["destination"]: mount for mount in _defaults(writable_kernel=context.privileged)}
    found["/dev/shm"] = _bind("/dev/shm", shm_path or "/dev/shm", ["nosuid", "nodev", "noexec"])  # noqa: S108
    access = "ro" if context.readonly_rootfs else "rw"
    for path, source in (("/etc/resolv.conf", resolv_conf), ("/etc/hostname", hostname_file)):
        if source:
            found[path] = _bind(path, source, ["rprivate", access])
    for mount in container.mounts:
        path = contained("mounts.container_path", mount.container_path)
        found.pop(path, None)
        found[path] = _requested(path, mount)
    if "/sys" in {m.container_path.rstrip("/") for m in container.mounts}:
        found.pop("/sys/fs/cgroup", None)  # the mounted /sys brings its own
    # Stable: mounts of the same depth stay in the request's order.
    return sorted(found.values(), key=lambda mount: mount["destination"].count("/"))


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


def _requested(path: str, mount: Any) -> Mount:
    access = "rro" if mount.recursive_read_only else "ro" if mount.readonly else "rw"
    options = [PROPAGATION[mount.propagation], access, *sorted(set(mount.mount_options))]
    return _bind(path, mount.host_path, options)


def check(mount: Any) -> None:
    """Refuse a CRI mount that can never work.

    Raises:
        InvalidArgumentError: with the field's name and value.
    """
    contained("mounts.container_path", mount.container_path)
    if not mount.host_path.startswith("/") or "\x00" in mount.host_path:
        raise InvalidArgumentError(f"mounts.host_path: {mount.host_path!r} is not absolute")
    if mount.propagation not in PROPAGATION:
        raise InvalidArgumentError(f"mounts.propagation: {mount.propagation} is unknown")
    if mount.recursive_read_only and not (mount.readonly and mount.propagation == PRIVATE):
        raise InvalidArgumentError(
            f"mounts.recursive_read_only: {mount.container_path!r} needs readonly and private propagation"
        )
    unknown = set(mount.mount_options) - MOUNT_OPTIONS
    if unknown:
        raise InvalidArgumentError(f"mounts.mount_options: {min(unknown)!r} is unknown")


def prepare_sources(container: Any) -> None:
    """Make the host directories that a request mounts and that are missing, as hostPath without a type expects.

    Blocking: a dead network filesystem may hang it.

    Raises:
        InvalidArgumentError: the path cannot be made, or is one that is never made.
    """
    for mount in container.mounts:
        path = Path(mount.host_path)
        try:
            if path.exists():
                continue
            if str(path) in NEVER_MADE:
                raise InvalidArgumentError(f"mounts.host_path: {path} is missing and never made")
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidArgumentError(f"mounts.host_path: {path}: {error.strerror}") from error


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
