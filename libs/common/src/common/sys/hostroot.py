"""Paths of the host, for a service that may be in a container: where they are in its own mount namespace."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

MAX_LINKS = 40
"""Symbolic links that are followed, as the kernel does."""


class HostRoot:
    """Where the host's root directory is.

    Args:
        root: its path; empty where ours is the host's.
        ours: directories that are at the same place inside and outside.
    """

    def __init__(self, root: str = "", ours: Sequence[str] = ()) -> None:
        self._root = root.rstrip("/")
        self._ours = tuple(ours)

    def here(self, path: str) -> str:
        """A path of the host as this process reaches it; its symbolic links lead where they do on the host.

        It need not be there. Blocking; raises OSError, of links that lead nowhere but to each other.
        """
        if not self._root or any(Path(path).is_relative_to(directory) for directory in self._ours):
            return path
        left, at, links = _parts(path), list[str](), 0
        while left:
            part = left.pop()
            if part == "..":
                del at[-1:]
                continue
            whole = Path(self._root, *at, part)
            if not whole.is_symlink():
                at.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = str(whole.readlink())
            if target.startswith("/"):
                at.clear()
            left += _parts(target)
        return "/".join((self._root, *at))

    def told(self, path: str) -> str:
        """The other way: what the host calls a path that `here` returned."""
        return path.removeprefix(self._root) or "/" if self._root else path


def _parts(path: str) -> list[str]:
    """The last first."""
    return [part for part in path.split("/") if part not in ("", ".")][::-1]
