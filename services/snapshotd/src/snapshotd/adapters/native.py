"""Snapshots by copying: for filesystems that overlayfs cannot stand on. Files are reflinked where they can be."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from common.sys import linux
from common.sys.userns import IdMappings, open_mapped, open_namespace
from snapshotd.adapters.mounts import attach
from snapshotd.adapters.views import opened
from snapshotd.compose import Stratum, attributes_of, dress, is_opaque
from snapshotd.records import LayerRecord
from snapshotd.usage import measure

_FICLONE = 0x40049409
"""linux/fs.h"""
_BATCH = 1000
_CANNOT_CLONE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)


class NativeSnapshotter:
    """See ports.Snapshotter.

    Args:
        root_of: where a layer's tree is.
    """

    whole = True

    def __init__(self, root_of: Callable[[LayerRecord], Path]) -> None:
        self._root_of = root_of

    def prepare(
        self,
        directory: Path,
        layers: list[LayerRecord],
        *,
        readonly: bool,
        ids: IdMappings | None,
        diff: Stratum | None = None,
    ) -> tuple[int, int]:
        """Copy the composed layers, and the diff over that; what the layers' copy holds is not the snapshot's own."""
        root = directory / "root"
        root.mkdir(mode=0o755)
        for layer in layers:
            _Copy(self._root_of(layer), root, frozenset(layer.implied)).run()
        base = measure(root)
        if diff:
            _Copy(diff.root, root, diff.implied).run()
        return base

    def mount(
        self,
        directory: Path,
        target: Path,
        layers: list[LayerRecord],
        *,
        readonly: bool,
        ids: IdMappings | None,
    ) -> None:
        """Bind the copy."""
        if ids:
            with (
                opened(open_namespace(ids)) as userns,
                opened(
                    open_mapped(str(directory / "root"), userns, linux.MOUNT_ATTR_RDONLY if readonly else 0)
                ) as view,
            ):
                attach(view, target)
            return
        target.mkdir(mode=0o700, exist_ok=True)
        linux.mount(str(directory / "root"), str(target), flags=linux.MS_BIND)
        if readonly:
            linux.mount("none", str(target), flags=linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY)

    def writable(self, directory: Path) -> Path:
        return directory / "root"


class _Copy:
    """Applies one layer in overlayfs form to a tree that nobody else touches."""

    def __init__(self, source: Path, target: Path, implied: frozenset[str]) -> None:
        self._source, self._target, self._implied = source, target, implied
        self._links: dict[int, Path] = {}

    def run(self) -> None:
        # a layer that implies its root leaves the root as the lower layers made it
        fresh = not any(self._target.iterdir())
        if is_opaque(self._source):
            remove_tree(self._target)
            self._target.mkdir(mode=0o755)
            fresh = True
        waiting = [("", fresh)]
        while waiting:
            here, fresh = waiting.pop()
            with os.scandir(self._source / here) as found:
                for each in found:
                    relative = f"{here}/{each.name}" if here else each.name
                    if each.is_dir(follow_symlinks=False):
                        waiting.append((relative, self._make_directory(relative)))
                    else:
                        self._place(relative)
            if fresh or here not in self._implied:
                dress(self._target / here, attributes_of(self._source / here))

    def _make_directory(self, relative: str) -> bool:
        """Have a directory; true when it is new, or stands for one that hides what was there."""
        target = self._target / relative
        if _kind(target) == stat.S_IFDIR and not is_opaque(self._source / relative):
            return False
        remove_tree(target)
        target.mkdir(mode=0o700)
        return True

    def _place(self, relative: str) -> None:
        """Put what is no directory."""
        source, target = self._source / relative, self._target / relative
        status = source.lstat()
        remove_tree(target)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            return
        if status.st_ino in self._links:
            os.link(self._links[status.st_ino], target, follow_symlinks=False)
            return
        self._make(source, target, status)
        if status.st_nlink > 1:
            self._links[status.st_ino] = target

    def _make(self, source: Path, target: Path, status: os.stat_result) -> None:
        link = stat.S_ISLNK(status.st_mode)
        if stat.S_ISREG(status.st_mode):
            _copy_file(source, target, status.st_size)
        elif link:
            target.symlink_to(source.readlink())
        else:
            os.mknod(target, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev)
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
        if not link:
            target.chmod(stat.S_IMODE(status.st_mode))
        for name in os.listxattr(source, follow_symlinks=False):
            value = os.getxattr(source, name, follow_symlinks=False)
            os.setxattr(target, name, value, follow_symlinks=False)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _kind(path: Path) -> int:
    try:
        return stat.S_IFMT(path.lstat().st_mode)
    except FileNotFoundError:
        return 0


def _copy_file(source: Path, target: Path, size: int) -> None:
    source_fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target_fd = os.open(target, flags, 0o600)
        try:
            try:
                fcntl.ioctl(target_fd, _FICLONE, source_fd)
            except OSError as exc:
                if exc.errno not in _CANNOT_CLONE:
                    raise
                _copy_data(source_fd, target_fd, size)
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


def _copy_data(source_fd: int, target_fd: int, size: int) -> None:
    """Copy what is no hole."""
    os.ftruncate(target_fd, size)
    offset = 0
    while offset < size:
        try:
            start = os.lseek(source_fd, offset, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(source_fd, start, os.SEEK_HOLE)
        while start < end:
            os.lseek(target_fd, start, os.SEEK_SET)
            done = os.sendfile(target_fd, source_fd, start, end - start)
            if not done:
                return
            start += done
        offset = end


def remove_tree(path: Path) -> None:
    """Remove whatever is here; without recursion and in batches, since a layer may nest and fill directories as it likes."""
    kind = _kind(path)
    if kind != stat.S_IFDIR:
        path.unlink(missing_ok=True)
        return
    waiting = [path]
    while waiting:
        here = waiting[-1]
        with os.scandir(here) as found:
            some = list(islice(found, _BATCH))
        for each in some:
            if each.is_dir(follow_symlinks=False):
                waiting.append(Path(each.path))
            else:
                Path(each.path).unlink()
        if not some:
            here.rmdir()
            waiting.pop()
