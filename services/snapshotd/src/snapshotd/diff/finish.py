"""What a layer needs beyond the helper's capabilities: opaque marks (trusted.* xattrs) and device nodes.

The helper only names them. Each path is opened below the layer's root without following any link.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.sys import linux
from snapshotd.diff.answer import Device, Unpacked
from snapshotd.diff.whiteout import OPAQUE_XATTR

_NO_LINKS = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS


def finish(root: Path, unpacked: Unpacked) -> None:
    """Mark opaque directories and make device nodes.

    Raises:
        OSError: with the path.
    """
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in unpacked.opaque:
            with _directory(root_fd, path) as fd:
                os.setxattr(fd, OPAQUE_XATTR, b"y")
        for device in unpacked.devices:
            parent, _, name = device.path.rpartition("/")
            with _directory(root_fd, parent) as fd:
                _make_device(fd, name, device)
    finally:
        os.close(root_fd)


@contextmanager
def _directory(root_fd: int, path: str) -> Iterator[int]:
    fd = linux.openat2(root_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY, resolve=_NO_LINKS)
    try:
        yield fd
    finally:
        os.close(fd)


def _make_device(parent_fd: int, name: str, device: Device) -> None:
    before = os.fstat(parent_fd)
    os.unlink(name, dir_fd=parent_fd)  # the file in its place
    os.mknod(name, stat.S_IFMT(device.mode) | 0o600, device.device, dir_fd=parent_fd)
    os.chown(name, device.uid, device.gid, dir_fd=parent_fd, follow_symlinks=False)
    os.chmod(name, stat.S_IMODE(device.mode), dir_fd=parent_fd)
    os.utime(name, ns=(device.mtime_ns, device.mtime_ns), dir_fd=parent_fd, follow_symlinks=False)
    os.utime(parent_fd, ns=(before.st_atime_ns, before.st_mtime_ns))
