"""The host paths that a request mounts: followed to their ends, made where missing, fit for their propagation.

All of it is blocking: a dead network filesystem may hang it.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import InvalidArgumentError
from common.sys.hostroot import HostRoot
from common.sys.mounts import propagation_of
from common.sys.userns import open_mapped

PRIVATE, HOST_TO_CONTAINER, BIDIRECTIONAL = 0, 1, 2  # MountPropagation of CRI


class Source(NamedTuple):
    """A host path without symbolic links."""

    path: str
    is_directory: bool


def prepare(
    container: Any, never_made: Collection[str], host: HostRoot, user_namespace: str = ""
) -> list[Source]:
    """What each mount of a request mounts, in their order. A missing directory is made, as `hostPath` expects.

    Args:
        container: CRI ContainerConfig; each of its mounts has a host path.
        never_made: paths in whose place a directory would break the node.
        host: where the host's paths are.
        user_namespace: path of the one whose ids mounts with mappings get.

    Raises:
        InvalidArgumentError: a path cannot be used, is one that is never made, is not on a shared mount, or
            its filesystem cannot map ids.
    """
    found = [_prepare(mount, never_made, host) for mount in container.mounts]
    for mount, source in zip(container.mounts, found, strict=True):
        if mount.uidMappings:
            _check_mappable(mount, source.path, user_namespace)
    return found


def _check_mappable(mount: Any, path: str, user_namespace: str) -> None:
    """Try what the OCI runtime will do, since its own message would not name the mount."""
    try:
        userns = os.open(user_namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.close(open_mapped(path, userns))
        finally:
            os.close(userns)
    except OSError as error:
        raise InvalidArgumentError(
            f"mounts.uidMappings: {mount.container_path!r} of {mount.host_path!r}: {error.strerror}"
        ) from error


def _prepare(mount: Any, never_made: Collection[str], host: HostRoot) -> Source:
    given = Path(mount.host_path)
    try:
        path = Path(os.path.realpath(host.here(mount.host_path)))
        if not path.exists():
            if Path(host.here(str(given.parent)), given.name).is_symlink():
                raise InvalidArgumentError(f"mounts.host_path: {str(given)!r} is a symbolic link to nothing")
            if host.told(str(path)) in never_made:
                raise InvalidArgumentError(f"mounts.host_path: {str(given)!r} is missing and never made")
            _make(path)
        is_directory = path.is_dir()
    except OSError as error:
        raise InvalidArgumentError(f"mounts.host_path: {str(given)!r}: {error.strerror}") from error
    _check_propagation(mount, str(path))
    return Source(str(path), is_directory)


def _make(path: Path) -> None:
    """Make a directory and its parents, 0755 whatever this process's umask is."""
    missing = [path, *(parent for parent in path.parents if not parent.exists())]
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)


def _check_propagation(mount: Any, path: str) -> None:
    if mount.propagation == PRIVATE:
        return
    fields = propagation_of(path)
    if "shared:" in fields or (mount.propagation == HOST_TO_CONTAINER and "master:" in fields):
        return
    wanted = "shared" if mount.propagation == BIDIRECTIONAL else "shared or slave"
    raise InvalidArgumentError(f"mounts.propagation: {mount.host_path!r} is not on a {wanted} mount")
