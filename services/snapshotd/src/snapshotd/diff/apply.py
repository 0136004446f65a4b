"""A layer's entries as a directory tree in overlayfs form, written below the current directory.

Paths that the kernel is asked for have no symbolic link in their directories, so that it never follows one: a link that a
layer puts in an entry's way is resolved here, inside the tree, as containerd does. Only directories are kept in memory;
what else lies where, the disk knows. Opaque directories and device nodes are noted (see diff/finish.py), since they need
capabilities that this side does not have; a device has an empty file in its place.
"""

# ruff: noqa: PTH101, PTH102, PTH106, PTH108, PTH115, PTH211 - names of layers are bytes, which pathlib does not take

import errno
import os
import stat
from collections.abc import Callable, Iterable
from typing import TypeVar

from snapshotd.diff.tar import Entry
from snapshotd.diff.whiteout import MAX_PATH_BYTES, OPAQUE, PREFIX, BadEntryError, hidden_name, parts_of, show

_MAX_PARENTS = 4096
_MAX_LINKS = 40
_MAX_ID = 0xFFFFFFFE
_MAX_MAJOR, _MAX_MINOR = 0xFFF, 0xFFFFF
"""linux/kdev_t.h, MINORBITS."""
_MAX_TIME_NS = 1 << 62
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_XATTRS = (b"user.", b"security.", b"system.posix_acl_")
"""trusted.* is overlayfs' own: an image must not speak to it."""
_DEFAULT_ACL = b"system.posix_acl_default"
T = TypeVar("T")


class TooManyError(Exception):
    """More entries or more bytes than the settings allow."""


class TreeWriter:
    """Writes one layer; `close` sets what must come last.

    Args:
        max_entries: bound on the number of entries.
        max_bytes: bound on the sum of the files' sizes, holes included.
    """

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self.opaque: set[bytes] = set()
        self.devices: dict[bytes, Entry] = {}
        self._entries_left = max_entries
        self._bytes_left = max_bytes
        self._links_left = 0
        self._dirs: dict[bytes, int | None] = {b"": None}
        """Real paths of directories, with their times; None for one that no entry describes."""
        self._dir_acls: dict[bytes, bytes] = {}
        self._parents: dict[bytes, bytes] = {}
        """Names of directories with their real paths: most entries lie beside the one before."""

    @property
    def implied(self) -> list[bytes]:
        """Directories that no entry describes."""
        return sorted(path for path, at_ns in self._dirs.items() if at_ns is None)

    def add(self, entry: Entry, write_data: Callable[[int], None]) -> None:
        """Write one entry; `write_data` puts its bytes into an open file.

        Raises:
            BadEntryError: the entry is never to be unpacked.
            TooManyError: a bound is passed.
            OSError: the disk is full, or a name is too long.
        """
        self._count(entry)
        parent, slash, base = entry.name.rpartition(b"/")
        if not slash or not (real := self._parents.get(parent)):
            parts = parts_of(entry.name)
            if not parts:
                self._add_root(entry)
                return
            base = parts.pop()
            real = self._directory(parts)
            if parts and base == entry.name.rpartition(b"/")[2]:
                if len(self._parents) >= _MAX_PARENTS:
                    self._parents.clear()
                self._parents[parent] = real
        elif base in (b"", b".", b"..") or len(entry.name) > 1024:
            parts = parts_of(entry.name)
            base = parts.pop()
            real = self._directory(parts)
        if base.startswith(PREFIX):
            self._hide(real, base)
        else:
            self._put(real + b"/" + base if real else base, entry, write_data)

    def close(self) -> None:
        """Set the times of directories, which writing into them has changed."""
        for path, acl in self._dir_acls.items():
            _set_xattr(path or b".", _DEFAULT_ACL, acl)
        for path, at_ns in self._dirs.items():
            if at_ns is not None:
                os.utime(path or b".", ns=(at_ns, at_ns), follow_symlinks=False)

    def _count(self, entry: Entry) -> None:
        self._count_one()
        self._bytes_left -= max(entry.size, 0)
        if self._bytes_left < 0:
            message = f"entry {show(entry.name)}: its files are larger than the settings allow"
            raise TooManyError(message)
        if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
            message = f"entry {show(entry.name)}: owner {entry.uid}:{entry.gid} cannot be"
            raise BadEntryError(message)

    def _count_one(self) -> None:
        self._entries_left -= 1
        if self._entries_left < 0:
            message = "it has more entries than the settings allow"
            raise TooManyError(message)

    def _directory(self, parts: Iterable[bytes], *, make: bool = True) -> bytes:
        """The real path of a directory, with links followed inside the tree; missing ones are made."""
        self._links_left = _MAX_LINKS
        return self._walk(parts, make=make)

    def _walk(self, parts: Iterable[bytes], *, make: bool) -> bytes:
        here = b""
        for part in parts:
            if part == b"..":
                here = here.rpartition(b"/")[0]
                continue
            path = here + b"/" + part if here else part
            if path in self._dirs:
                here = path
                continue
            _bound(path)
            mode = _mode(path)
            if stat.S_ISLNK(mode):
                self._links_left -= 1  # of the whole way, as the kernel counts
                if self._links_left < 0:
                    message = f"entry {show(path)}: too many symbolic links"
                    raise BadEntryError(message)
                target = os.readlink(path)
                start = [] if target.startswith(b"/") or not here else here.split(b"/")
                steps = [p for p in target.split(b"/") if p and p != b"."]
                here = self._walk([*start, *steps], make=make)
                continue
            if mode and not stat.S_ISCHR(mode):
                message = f"entry {show(path)}: it is no directory, but another entry lies in it"
                raise BadEntryError(message)
            if not make:
                message = f"entry {show(path)}: it is not in the layer"
                raise BadEntryError(message)
            self._make_directory(path)
            self._count_one()
            here = path
        return here

    def _make_directory(self, path: bytes) -> None:
        _bound(path)
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            # what stood here hides the lower layers' directory, and so must the new one
            self._remove(path)
            os.mkdir(path, 0o755)
            self.opaque.add(path)
        self._dirs[path] = None

    def _add_root(self, entry: Entry) -> None:
        if not stat.S_ISDIR(entry.mode) or entry.hardlink:
            message = f"entry {show(entry.name)}: the root must be a directory"
            raise BadEntryError(message)
        self._dress_directory(b"", entry)

    def _hide(self, parent: bytes, base: bytes) -> None:
        if base == OPAQUE:
            self.opaque.add(parent)
            return
        hidden = hidden_name(base)
        if not hidden:
            return
        path = parent + b"/" + hidden if parent else hidden
        try:
            # device 0:0 needs no CAP_MKNOD (Linux 5.8)
            os.mknod(path, stat.S_IFCHR, 0)
        except FileExistsError:
            # a whiteout is about the lower layers only: what this layer adds itself stays
            if path in self._dirs:
                self.opaque.add(path)

    def _put(self, path: bytes, entry: Entry, write_data: Callable[[int], None]) -> None:
        _bound(path)
        mode = entry.mode
        if entry.hardlink is not None:
            self._put_hardlink(path, entry.hardlink)
        elif stat.S_ISDIR(mode):
            if path not in self._dirs:
                self._make_directory(path)
            self._dress_directory(path, entry)
        elif stat.S_ISREG(mode):
            self._put_file(path, entry, write_data)
        elif stat.S_ISLNK(mode):
            self._put_symlink(path, entry)
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            self._put_device(path, entry)
        elif stat.S_ISFIFO(mode):
            self._create(path, lambda: os.mkfifo(path, 0o600))
            self._dress(path, entry)
        else:
            message = f"entry {show(entry.name)}: a file of type {stat.S_IFMT(mode):o}"
            raise BadEntryError(message)

    def _create(self, path: bytes, make: Callable[[], T]) -> T:
        """Make something new in the place of what an earlier entry put there."""
        try:
            return make()
        except FileExistsError:
            self._remove(path)
            return make()

    def _put_file(self, path: bytes, entry: Entry, write_data: Callable[[int], None]) -> None:
        fd = self._create(path, lambda: os.open(path, _CREATE, 0o600))
        try:
            if entry.size > 0:
                write_data(fd)
                if entry.sparse:
                    os.ftruncate(fd, entry.size)
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode & 0o7777)
            for name, value in entry.xattrs:
                _set_xattr(fd, name, value)
            at_ns = clamped(entry.mtime_ns)
            os.utime(fd, ns=(at_ns, at_ns))
        finally:
            os.close(fd)

    def _put_device(self, path: bytes, entry: Entry) -> None:
        if stat.S_ISCHR(entry.mode) and entry.device == (0, 0):
            self._create(path, lambda: os.mknod(path, stat.S_IFCHR, 0))
            return
        if entry.device[0] > _MAX_MAJOR or entry.device[1] > _MAX_MINOR:
            message = f"entry {show(entry.name)}: device {entry.device[0]}:{entry.device[1]} cannot be"
            raise BadEntryError(message)
        os.close(self._create(path, lambda: os.open(path, _CREATE, 0)))
        self.devices[path] = entry

    def _put_symlink(self, path: bytes, entry: Entry) -> None:
        target = entry.symlink or b""
        if not target:
            message = f"entry {show(entry.name)}: a symbolic link to nothing"
            raise BadEntryError(message)
        self._create(path, lambda: os.symlink(target, path))
        self._dress(path, entry, link=True)

    def _put_hardlink(self, path: bytes, target: bytes) -> None:
        parts = parts_of(target)
        if not parts:
            message = f"entry {show(path)}: a hard link to the root"
            raise BadEntryError(message)
        parent = self._directory(parts[:-1], make=False)
        real = parent + b"/" + parts[-1] if parent else parts[-1]
        mode = _mode(real)
        if not mode or real in self._dirs or stat.S_ISCHR(mode):
            message = f"entry {show(path)}: a hard link to {show(target)}, which is no file of the layer"
            raise BadEntryError(message)
        if real == path:
            return
        try:
            self._create(path, lambda: os.link(real, path, follow_symlinks=False))
        except FileNotFoundError as exc:
            message = f"entry {show(path)}: a hard link that replaces its own target"
            raise BadEntryError(message) from exc
        if real in self.devices:
            self.devices[path] = self.devices[real]

    def _dress_directory(self, path: bytes, entry: Entry) -> None:
        acl = next((value for name, value in entry.xattrs if name == _DEFAULT_ACL), None)
        if acl:
            # inherited by what is made in the directory, so it comes last
            self._dir_acls[path] = acl
        self._dress(path or b".", entry)
        self._dirs[path] = clamped(entry.mtime_ns)

    def _dress(self, path: bytes, entry: Entry, *, link: bool = False) -> None:
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
        if not link:
            os.chmod(path, entry.mode & 0o7777)
        for name, value in entry.xattrs:
            if name != _DEFAULT_ACL:
                _set_xattr(path, name, value)
        at_ns = clamped(entry.mtime_ns)
        os.utime(path, ns=(at_ns, at_ns), follow_symlinks=False)

    def _remove(self, path: bytes) -> None:
        """Take away what an earlier entry of this layer has put here."""
        if path not in self._dirs:
            os.unlink(path)
            self.devices.pop(path, None)
            return
        waiting, found = [path], []
        while waiting:
            here = waiting.pop()
            found.append(here)
            with os.scandir(here) as entries:
                below = [entry.path for entry in entries]
            for each in below:
                if each in self._dirs:
                    waiting.append(each)
                else:
                    os.unlink(each)
                    self.devices.pop(each, None)
        for each in reversed(found):
            os.rmdir(each)
            del self._dirs[each]
            self._dir_acls.pop(each, None)
            self.opaque.discard(each)
        self._parents.clear()


def _mode(path: bytes) -> int:
    """What lies at a path; 0 for nothing."""
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return 0


def _bound(path: bytes) -> None:
    # links that lead to long paths can make a short name long
    if len(path) > MAX_PATH_BYTES:
        message = f"entry {show(path)}: its path has {len(path)} bytes, more than {MAX_PATH_BYTES}"
        raise BadEntryError(message)


def clamped(at_ns: int) -> int:
    """A time that the kernel takes, in ns since 1970."""
    return min(max(at_ns, 0), _MAX_TIME_NS)


def _set_xattr(target: int | bytes, name: bytes, value: bytes) -> None:
    if not name.startswith(_KEPT_XATTRS):
        return
    try:
        if isinstance(target, int):
            os.setxattr(target, name, value)
        else:
            os.setxattr(target, name, value, follow_symlinks=False)
    except OSError as exc:
        # the filesystem has no such attributes, or none of this kind on links: the file is right without
        if exc.errno not in (errno.ENOTSUP, errno.EPERM, errno.EINVAL):
            raise
