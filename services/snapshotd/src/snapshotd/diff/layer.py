"""A snapshot's changes as a layer (OCI image spec, layer.md). Blocking.

The same tree always gives the same bytes: entries come in order, without names of users, with times in whole
seconds. Of a container that writes meanwhile, each file is as long as it was when it was looked at.
"""

import hashlib
import os
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from common.errors import AbortedError, FailedPreconditionError
from common.sys.userns import IdMappings
from snapshotd.diff.changes import Change, opened
from snapshotd.diff.whiteout import OPAQUE, PREFIX

_PIECE_BYTES = 1 << 20
_DROPPED = ("trusted.overlay.", "security.selinux")
_UNTELLABLE = ("trusted.overlay.redirect", "trusted.overlay.metacopy")


class Written(NamedTuple):
    """A layer's tar."""

    diff_id: str
    size_bytes: int
    entries: int


def write_layer(
    target: Path, root: Path, changes: Sequence[Change], ids: IdMappings | None, max_mtime_s: int = 0
) -> Written:
    """Write changes of the tree at `root` as an uncompressed layer into a new file; it is synced.

    With `max_mtime_s`, what is younger is told to be from then.

    Raises:
        AbortedError: something changed while it was read.
        FailedPreconditionError: overlayfs keeps something of it that no layer can tell.
        OSError: with the path.
    """
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with os.fdopen(fd, "wb") as out:
            hashed = _Hashed(out)
            writer = _Writer(hashed, root_fd, ids, max_mtime_s)
            for change in changes:
                if not change.implied:
                    writer.add(change)
            hashed.write(bytes(2 * tarfile.BLOCKSIZE))
            out.flush()
            os.fsync(out.fileno())
        return Written(f"sha256:{hashed.digest.hexdigest()}", hashed.size_bytes, writer.entries)
    finally:
        os.close(root_fd)


class _Hashed:
    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self.digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, piece: bytes) -> None:
        self._out.write(piece)
        self.digest.update(piece)
        self.size_bytes += len(piece)


class _Writer:
    def __init__(self, out: _Hashed, root_fd: int, ids: IdMappings | None, max_mtime_s: int) -> None:
        self._out = out
        self._root_fd = root_fd
        self._ids = ids
        self._max_mtime_s = max_mtime_s
        self._links: dict[int, str] = {}
        self.entries = 0

    def add(self, change: Change) -> None:
        """Write one change."""
        if change.status is None:
            parent, _, name = change.path.rpartition("/")
            self._mark(parent, PREFIX.decode() + name)
            return
        try:
            self._entry(change.path, change.status)
        except FileNotFoundError as exc:
            raise AbortedError(f"{change.path!r} went while it was read: pause the container") from exc
        if change.opaque:
            self._mark(change.path, OPAQUE.decode())

    def _mark(self, parent: str, name: str) -> None:
        self._header(tarfile.TarInfo(f"{parent}/{name}" if parent else name))

    def _entry(self, path: str, status: os.stat_result) -> None:
        member = tarfile.TarInfo(path or ".")
        member.mode, member.mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
        if self._max_mtime_s:
            member.mtime = min(member.mtime, self._max_mtime_s)
        member.uid, member.gid = status.st_uid, status.st_gid
        if self._ids:
            member.uid = self._ids.uids.to_container(status.st_uid)
            member.gid = self._ids.gids.to_container(status.st_gid)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFSOCK:
            return  # nothing listens in an image
        first = self._links.get(status.st_ino) if status.st_nlink > 1 and kind != stat.S_IFDIR else None
        if first is not None:
            member.type, member.linkname = tarfile.LNKTYPE, first
        elif kind == stat.S_IFREG:
            self._file(path, status, member)
        elif kind == stat.S_IFDIR:
            member.type = tarfile.DIRTYPE
            with opened(self._root_fd, path, os.O_RDONLY | os.O_DIRECTORY) as fd:
                self._header(member, _xattrs(path, fd))
        elif kind == stat.S_IFLNK:
            member.type, member.linkname = tarfile.SYMTYPE, self._link(path)
        else:
            types = {
                stat.S_IFCHR: tarfile.CHRTYPE,
                stat.S_IFBLK: tarfile.BLKTYPE,
                stat.S_IFIFO: tarfile.FIFOTYPE,
            }
            member.type = types[kind]
            member.devmajor, member.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        if first is not None or kind not in (stat.S_IFREG, stat.S_IFDIR):
            self._header(member)
        if status.st_nlink > 1:
            self._links.setdefault(status.st_ino, path)

    def _file(self, path: str, status: os.stat_result, member: tarfile.TarInfo) -> None:
        with opened(self._root_fd, path, os.O_RDONLY | os.O_NONBLOCK) as fd:
            if os.fstat(fd).st_ino != status.st_ino:
                raise AbortedError(f"{path!r} was replaced while it was read: pause the container")
            member.size = status.st_size
            self._header(member, _xattrs(path, fd))
            left = status.st_size
            while left:
                piece = os.read(fd, min(left, _PIECE_BYTES))
                if not piece:
                    raise AbortedError(f"{path!r} was cut while it was read: pause the container")
                self._out.write(piece)
                left -= len(piece)
        self._out.write(bytes(-status.st_size % tarfile.BLOCKSIZE))

    def _link(self, path: str) -> str:
        parent, _, name = path.rpartition("/")
        with opened(self._root_fd, parent, os.O_RDONLY | os.O_DIRECTORY) as fd:
            return os.readlink(name, dir_fd=fd)

    def _header(self, member: tarfile.TarInfo, xattrs: dict[str, str] | None = None) -> None:
        member.pax_headers = xattrs or {}
        self._out.write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        self.entries += 1


def _xattrs(path: str, fd: int) -> dict[str, str]:
    found = {}
    for name in sorted(os.listxattr(fd)):
        if name in _UNTELLABLE:
            raise FailedPreconditionError(f"{path!r} has {name}, which no layer can tell")
        if not name.startswith(_DROPPED):
            found[f"SCHILY.xattr.{name}"] = os.getxattr(fd, name).decode("utf-8", "surrogateescape")
    return found
