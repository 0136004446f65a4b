"""The directory of mount points: within the shared run directory, so that mounts reach the shims' namespaces."""

import errno
import os
import shutil
from pathlib import Path

from common.observe.log import get_logger
from common.sys import linux
from common.sys.mountinfo import mount_points
from common.sys.mounts import ensure_shared

_log = get_logger("mounts")


class MountPoints:
    """Mount points below one directory. All methods block.

    Args:
        directory: made when it is not there.
        run_dir: the node's, made a shared mount.
        mode: the directory's.
    """

    def __init__(self, directory: Path, run_dir: Path, mode: int = 0o711) -> None:
        self.directory = directory
        self._run_dir, self._mode = run_dir, mode

    def share(self) -> None:
        """Make the directory, and the node's run directory a shared mount, as every service does.

        A mount of its own here would have another peer group than the run directory's, which a namespace that
        was made before (the zygote's) would not follow.
        """
        ensure_shared(self._run_dir)
        self.directory.mkdir(mode=self._mode, parents=True, exist_ok=True)
        self.directory.parent.chmod(0o711)  # the root of a user namespace goes through it to its filesystem

    def path(self, key: str) -> Path:
        return self.directory / key

    def mounted(self) -> set[str]:
        """Keys of what is mounted now."""
        prefix = f"{self.directory}/"
        names = [point.removeprefix(prefix) for point, _ in mount_points() if point.startswith(prefix)]
        return {name for name in names if "/" not in name}

    def points(self) -> set[str]:
        """Keys of the mount points, mounted or not."""
        return {path.name for path in self.directory.iterdir()}

    def unmount(self, key: str) -> None:
        """Unmount and remove a mount point; idempotent. What is in use goes when its last user does."""
        target = self.path(key)
        while True:
            try:
                linux.umount(str(target), linux.UMOUNT_NOFOLLOW)
            except OSError as exc:
                if exc.errno == errno.EBUSY:
                    linux.umount(str(target), linux.UMOUNT_NOFOLLOW | linux.MNT_DETACH)
                    continue
                if exc.errno not in (errno.EINVAL, errno.ENOENT):
                    raise
                break
        try:
            target.rmdir()
        except FileNotFoundError:
            return
        except OSError as exc:
            if exc.errno != errno.ENOTEMPTY or any(p.startswith(f"{target}/") for p, _ in mount_points()):
                raise
            # such as an OCI runtime makes that comes to its root after that was unmounted, once nobody waits for it
            names = sorted(path.name for path in target.iterdir())
            _log.warning("mount_point.used", path=str(target), names=names[:10])
            shutil.rmtree(target)


def attach(fd: int, target: Path) -> None:
    """Put a new mount on its mount point, which is made."""
    target.mkdir(mode=0o700, exist_ok=True)
    linux.move_mount(fd, os.fspath(target))
