"""Project quotas of a filesystem, by descriptors of files on it.

Constants and structures are from the kernel's uapi headers: linux/quota.h, linux/dqblk_xfs.h, linux/fs.h.
"""

import ctypes
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from common.sys import linux

_PROJECT = 2
_GET_QUOTA, _SET_QUOTA, _GET_STATE = 0x800007, 0x800008, 0x5805
_STATE_BYTES = 128
"""More than struct fs_quota_stat takes."""
_PROJECT_ENFORCED = 1 << 5
_BLOCK_BYTES = 1024
_LIMITS_OF_BLOCKS = 1
_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C581F, 0x401C5820
_ATTRIBUTES = "IIIII8x"
"""struct fsxattr: flags, two that are not ours, project, one that is not ours."""
_INHERIT = 0x200


class _Quota(ctypes.Structure):
    """struct if_dqblk."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("block_limit", "block_soft", "used_bytes")),
        *((name, ctypes.c_uint64) for name in ("inode_limit", "inode_soft", "inodes")),
        *((name, ctypes.c_uint64) for name in ("block_time", "inode_time")),
        ("valid", ctypes.c_uint32),
    )


def _ask(fd: int, command: int, project: int, argument: object) -> None:
    linux.quotactl_fd(fd, (command << 8) | _PROJECT, project, argument)


def enforced(fd: int) -> bool:
    """Whether a filesystem holds projects to their limits.

    Raises:
        OSError: the kernel or the filesystem has no quotas.
    """
    state = ctypes.create_string_buffer(b"\x01", _STATE_BYTES)  # begins with FS_QSTAT_VERSION
    _ask(fd, _GET_STATE, 0, state)
    return bool(struct.unpack_from("H", state.raw, 2)[0] & _PROJECT_ENFORCED)


def set_limit(fd: int, project: int, limit_bytes: int) -> None:
    """Bound what the files of a project take together; 0 for no bound."""
    blocks = -(-limit_bytes // _BLOCK_BYTES)
    _ask(fd, _SET_QUOTA, project, ctypes.byref(_Quota(block_limit=blocks, valid=_LIMITS_OF_BLOCKS)))


def used_bytes(fd: int, project: int) -> int:
    """What the files of a project take together."""
    quota = _Quota()
    _ask(fd, _GET_QUOTA, project, ctypes.byref(quota))
    return int(quota.used_bytes)


def set_project(fd: int, project: int, *, inherit: bool) -> None:
    """Put an open file or directory into a project; what is made in a directory later inherits it."""
    raw = fcntl.ioctl(fd, _GET_ATTRIBUTES, bytes(struct.calcsize(_ATTRIBUTES)))
    flags, extent, extents, _, copied = struct.unpack(_ATTRIBUTES, raw)
    flags |= _INHERIT if inherit else 0
    fcntl.ioctl(fd, _SET_ATTRIBUTES, struct.pack(_ATTRIBUTES, flags, extent, extents, project, copied))


@contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor of a directory to ask with."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
