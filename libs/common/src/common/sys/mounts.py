"""The run directory as a shared mount: what one service mounts in it, the others and the shims see."""

import fcntl
import os
from pathlib import Path

from common.sys import linux
from common.sys.mountinfo import detach, mount_points


def ensure_shared(directory: Path) -> None:
    """Make a directory its own shared mount point, once, whoever comes first.

    Where the filesystem around it is shared already (systemd makes / so), nothing is mounted.

    Raises:
        OSError: this process may not mount.
    """
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    path = str(directory.resolve())
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if "shared:" not in propagation_of(path):
            linux.mount(path, path, None, linux.MS_BIND | linux.MS_REC)
            linux.mount("none", path, None, linux.MS_SHARED)
    finally:
        os.close(lock)


def propagation_of(path: str) -> str:
    """Optional fields ("shared:N", "master:N") of the mount that a resolved path is on; "" for a private one."""
    around = [(p, o) for p, o in mount_points() if path == p or path.startswith(p.rstrip("/") + "/")]
    longest = max(around, key=lambda point: len(point[0]))
    last = [point for point in around if point[0] == longest[0]][-1]
    return last[1]


def unmount_below(directory: Path) -> list[str]:
    """Detach every mount at or below a directory, deepest first; returns what was detached."""
    root = str(directory.resolve())
    return detach(lambda path: path == root or path.startswith(f"{root}/"))
