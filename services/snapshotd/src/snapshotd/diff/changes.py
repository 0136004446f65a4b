"""What a snapshot changed of the layers below it. Blocking; the container may write meanwhile.

The snapshot's own directory is hostile: it is looked at by descriptors that leave it by no link. Layers do not
change; what one of them hides of those below it counts as overlayfs counts it.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from common.errors import FailedPreconditionError, ResourceExhaustedError
from common.sys import linux
from common.sys.userns import IdMappings
from snapshotd.compose import Attributes, is_opaque
from snapshotd.diff.whiteout import MAX_PATH_BYTES, OPAQUE_XATTR

_RESOLVE = (
    linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS | linux.RESOLVE_NO_XDEV
)
_UNTELLABLE = ("trusted.overlay.redirect", "trusted.overlay.metacopy")
"""Marks by which overlayfs keeps something apart from where it shows."""


class Kind(StrEnum):
    """As `docker diff` has them."""

    ADDED = "A"
    CHANGED = "C"
    DELETED = "D"


class Change(NamedTuple):
    """One path, relative to the root; '' is the root."""

    path: str
    kind: Kind
    status: os.stat_result | None
    """None for what is gone."""
    opaque: bool = False
    """A directory that shows nothing of the one below it."""
    implied: bool = False
    """Gone because its directory is opaque: a layer does not say it again."""


class Tree(NamedTuple):
    """Where a snapshot's changes are."""

    root: Path
    whole: bool
    """A copy of everything rather than what differs only."""
    layers: list[Path]
    """Top first, down to one that hides the rest."""
    looks: dict[str, Attributes]
    """Directories that look otherwise than in their topmost layer; '' is the root."""
    ids: IdMappings | None
    """How the ids in `root` are mapped from those of the layers."""
    ignore: frozenset[str]
    """Paths that the runtime makes to mount on: while they are empty, they do not count."""
    max_entries: int


def changes(tree: Tree) -> list[Change]:
    """All changes, directories before what is in them, in an order that is always the same.

    Directories that only lead to a change are among them; others that look as they did are not.

    Raises:
        FailedPreconditionError: no layer can tell it.
        ResourceExhaustedError: they are more than `max_entries`.
        OSError: with the path.
    """
    root_fd = os.open(tree.root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        walk = _Walk(tree, root_fd)
        walk.note("", os.fstat(root_fd), _status(tree.layers[0]) if tree.layers else None)
        waiting = [("", tree.layers, False)]
        while waiting:
            here, below, hidden = waiting.pop()
            waiting += walk.directory(here, below, hidden=hidden)
        return walk.result()
    finally:
        os.close(root_fd)


class _Walk:
    def __init__(self, tree: Tree, root_fd: int) -> None:
        self._tree = tree
        self._root_fd = root_fd
        self._found: list[Change] = []
        self._places: dict[str, int] = {}
        self._same: set[str] = set()

    def directory(self, here: str, below: list[Path], *, hidden: bool) -> list[tuple[str, list[Path], bool]]:
        """Look at one directory; returns those in it, each with the arguments for it.

        Args:
            here: its path.
            below: the layers' directories at the same place.
            hidden: they do not show, since a directory above is opaque.
        """
        try:
            with opened(self._root_fd, here, os.O_RDONLY | os.O_DIRECTORY) as fd:
                opaque = bool(below) and not (hidden or self._tree.whole) and _is_opaque(fd)
                hidden = hidden or opaque
                names = _names(fd)
                inner = self._entries(fd, here, names, below, hidden=hidden)
        except FileNotFoundError:
            return []  # gone meanwhile
        if opaque:
            self._same.discard(here)
            place = self._places[here]
            self._found[place] = self._found[place]._replace(opaque=True)
        if hidden or self._tree.whole:
            for name in _visible(below) - set(names):
                self._add(Change(_join(here, name), Kind.DELETED, None, implied=hidden))
        return inner

    def note(
        self, path: str, status: os.stat_result, old: os.stat_result | None, *, hidden: bool = False
    ) -> None:
        """Take an entry that is there, and was `old`."""
        if old is None:
            self._add(Change(path, Kind.ADDED, status))
            return
        if stat.S_ISDIR(status.st_mode) and stat.S_ISDIR(old.st_mode):
            look = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
            if not hidden and self._look(path, old) == look:
                self._same.add(path)
        elif self._tree.whole and _alike(status, old):
            return
        self._add(Change(path, Kind.CHANGED, status))

    def result(self) -> list[Change]:
        """Without the directories that lead to nothing."""
        leading: set[str] = set()
        for change in self._found:
            if change.path in self._same:
                continue
            parent = change.path
            # the root leads to everything, and need not be said
            while (parent := parent.rpartition("/")[0]) and parent not in leading:
                leading.add(parent)
        left = [c for c in self._found if c.path not in self._same or c.path in leading]
        return sorted(left, key=lambda change: os.fsencode(change.path).split(b"/"))

    def _entries(
        self, fd: int, here: str, names: list[str], below: list[Path], *, hidden: bool
    ) -> list[tuple[str, list[Path], bool]]:
        inner = []
        for name in names:
            path = _join(here, name)
            if len(os.fsencode(path)) > MAX_PATH_BYTES:
                raise FailedPreconditionError(f"{path[:64]!r}… is longer than {MAX_PATH_BYTES} bytes")
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            old = _lower(below, name)
            if is_whiteout(status) and not self._tree.whole:
                if old:
                    self._add(Change(path, Kind.DELETED, None, implied=hidden))
                continue
            if path in self._tree.ignore and not old and _is_empty(fd, name, status):
                continue
            self.note(path, status, old, hidden=hidden)
            if stat.S_ISDIR(status.st_mode):
                inner.append((path, _through(below, name), hidden))
        return inner

    def _look(self, path: str, old: os.stat_result) -> tuple[int, int, int]:
        look = self._tree.looks.get(path)
        mode, uid, gid = look[:3] if look else (stat.S_IMODE(old.st_mode), old.st_uid, old.st_gid)
        ids = self._tree.ids
        return (mode, ids.uids.to_host(uid), ids.gids.to_host(gid)) if ids else (mode, uid, gid)

    def _add(self, change: Change) -> None:
        if len(self._found) >= self._tree.max_entries:
            raise ResourceExhaustedError(f"it has more than {self._tree.max_entries} changes")
        self._places[change.path] = len(self._found)
        self._found.append(change)


@contextmanager
def opened(root_fd: int, path: str, flags: int) -> Iterator[int]:
    """Open what a container cannot lead elsewhere.

    Raises:
        OSError: with the path; also when it is a link now.
    """
    fd = linux.openat2(root_fd, path or ".", flags | os.O_NOFOLLOW | os.O_CLOEXEC, resolve=_RESOLVE)
    try:
        yield fd
    finally:
        os.close(fd)


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _join(here: str, name: str) -> str:
    return f"{here}/{name}" if here else name


def _is_opaque(fd: int) -> bool:
    names = os.listxattr(fd)
    for mark in _UNTELLABLE:
        if mark in names:
            raise FailedPreconditionError(f"a directory has {mark}, which no layer can tell")
    return OPAQUE_XATTR in names and os.getxattr(fd, OPAQUE_XATTR) == b"y"


def _is_empty(fd: int, name: str, status: os.stat_result) -> bool:
    if not stat.S_ISDIR(status.st_mode):
        return stat.S_ISREG(status.st_mode) and status.st_size == 0
    try:
        with opened(fd, name, os.O_RDONLY | os.O_DIRECTORY) as inner:
            return not _names(inner)
    except FileNotFoundError:
        return True  # gone meanwhile, and ignored


def _names(directory: int | Path) -> list[str]:
    with os.scandir(directory) as found:
        return [entry.name for entry in found]


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _lower(below: list[Path], name: str) -> os.stat_result | None:
    """What the layers show under a name in these directories of theirs."""
    for directory in below:
        status = _status(directory / name)
        if status:
            return None if is_whiteout(status) else status
    return None


def _through(below: list[Path], name: str) -> list[Path]:
    """The layers' directories of this name that are merged."""
    found: list[Path] = []
    for directory in below:
        status = _status(directory / name)
        if status is None:
            continue
        if not stat.S_ISDIR(status.st_mode):
            break
        found.append(directory / name)
        if is_opaque(directory / name):
            break
    return found


def _visible(below: list[Path]) -> set[str]:
    names = {name for directory in below for name in _names(directory)}
    return {name for name in names if _lower(below, name)}


def _alike(new: os.stat_result, old: os.stat_result) -> bool:
    """Whether a copy looks untouched; what writes into a file changes its time."""
    return all(
        getattr(new, name) == getattr(old, name)
        for name in ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_rdev")
    )
