"""Bounds for the writable directories of snapshots: a project of the filesystem's quotas for each.

The kernel holds a container to its bound: a write beyond it fails with ENOSPC on XFS, with EDQUOT on ext4. Blocking.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from common.errors import FailedPreconditionError
from common.sys import quota

_FIRST = 1 << 30
"""Projects below are the operator's."""
_NEAR_BYTES = 256 << 10
"""A snapshot with less room than this is full: what is written next, with what the filesystem adds, does not fit."""


class Quotas:
    """Bounds snapshots of a directory.

    Args:
        root: where snapshots are.
        max_bytes: the bound of each; 0 for none.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root, self.max_bytes = root, max_bytes

    def check(self) -> None:
        """Raise unless the bound can be held.

        Raises:
            FailedPreconditionError: says what is missing.
        """
        if not self.max_bytes:
            return
        why = "mounted without prjquota"
        try:
            with quota.opened(str(self._root)) as fd:
                if quota.enforced(fd):
                    return
        except OSError as exc:
            why = "none in this kernel" if exc.errno == errno.ENOSYS else str(exc.strerror)
        raise FailedPreconditionError(
            f"writable_max_bytes = {self.max_bytes}: the filesystem of {self._root} holds no project to a quota ({why}): "
            "want XFS mounted with prjquota, or ext4 made with -O quota,project and mounted with prjquota"
        )

    def project(self, taken: Iterable[int]) -> int:
        """A project for a new snapshot; 0 where there is no bound. At random: what is in the bin still has its own."""
        if not self.max_bytes:
            return 0
        held = set(taken)
        while (found := _FIRST + secrets.randbelow(_FIRST)) in held:
            pass
        return found

    def bound(self, directory: Path, project: int, base_bytes: int) -> None:
        """Hold a snapshot's directory, which nobody uses yet, to the bound.

        Args:
            directory: with all that is in it.
            project: its.
            base_bytes: what does not count as the snapshot's own.

        Raises:
            OSError: with the path.
        """
        with quota.opened(str(self._root)) as fd:
            quota.set_limit(fd, project, self.max_bytes + base_bytes)
        for here, _, files in os.walk(directory):
            _put(here, project, inherit=True)
            for name in files:
                if stat.S_ISREG(os.lstat(f"{here}/{name}").st_mode):
                    _put(f"{here}/{name}", project, inherit=False)

    def release(self, project: int) -> None:
        """Forget a snapshot's bound."""
        if project:
            with suppress(OSError), quota.opened(str(self._root)) as fd:
                quota.set_limit(fd, project, 0)

    def used_bytes(self, project: int) -> int:
        """What a snapshot takes, with its base.

        Raises:
            OSError: the filesystem has no quotas any more.
        """
        with quota.opened(str(self._root)) as fd:
            return quota.used_bytes(fd, project)


def is_full(used_bytes: int, max_bytes: int) -> bool:
    """Whether a snapshot is at its bound."""
    return used_bytes + _NEAR_BYTES >= max_bytes


def _put(path: str, project: int, *, inherit: bool) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        quota.set_project(fd, project, inherit=inherit)
    finally:
        os.close(fd)
