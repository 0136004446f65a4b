"""A layer's entries as a directory tree in overlayfs form, written below the current directory.

The tree's own table (`_kinds`) says what lies where, by paths without any symbolic link, so that no call of
the kernel ever follows one: a link that a layer puts in an entry's way is resolved here, inside the tree, as
containerd does. Opaque directories and device nodes are only noted (see diff/finish.py): they need
capabilities that this side does not have.
"""

# ruff: noqa: PTH101, PTH102, PTH106, PTH108, PTH211 - names of layers are bytes, which pathlib does not take

import errno
import os
import stat
from collections.abc import Callable, Iterable

from snapshotd.diff.tar import Entry
from snapshotd.diff.whiteout import MAX_PATH_BYTES, OPAQUE, PREFIX, BadEntryError, hidden_name, parts_of, show

_DIR, _FILE, _LINK, _DEVICE, _WHITEOUT = range(5)
_MAX_LINKS = 40
_MAX_ID = 0xFFFFFFFE
_MAX_TIME_NS = 1 << 62
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_XATTRS = (b"user.", b"security.", b"system.posix_acl_")
"""trusted.* is overlayfs' own: an image must not speak to it."""
_DEFAULT_ACL = b"system.posix_acl_default"


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
        self.implied: set[bytes] = {b""}
        self._entries_left = max_entries
        self._bytes_left = max_bytes
        self._kinds: dict[bytes, int] = {b"": _DIR}
        self._links: dict[bytes, bytes] = {}
        self._parents: dict[bytes, bytes] = {}
        self._dir_times: dict[bytes, int] = {}
        self._dir_acls: dict[bytes, bytes] = {}

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
        for path, at_ns in self._dir_times.items():
            os.utime(path or b".", ns=(at_ns, at_ns), follow_symlinks=False)

    def _count(self, entry: Entry) -> None:
        self._entries_left -= 1
        self._bytes_left -= max(entry.size, 0)
        if self._entries_left < 0:
            message = "it has more entries than the settings allow"
            raise TooManyError(message)
        if self._bytes_left < 0:
            message = f"entry {show(entry.name)}: its files are larger than the settings allow"
            raise TooManyError(message)
        if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
            message = f"entry {show(entry.name)}: owner {entry.uid}:{entry.gid} cannot be"
            raise BadEntryError(message)

    def _directory(self, parts: Iterable[bytes], *, make: bool = True, links: int = 0) -> bytes:
        """The real path of a directory, with links followed inside the tree; missing ones are made."""
        here = b""
        for part in parts:
            if part == b"..":
                here = here.rpartition(b"/")[0]
                continue
            path = here + b"/" + part if here else part
            kind = self._kinds.get(path)
            if kind == _LINK:
                if links >= _MAX_LINKS:
                    message = f"entry {show(path)}: too many symbolic links"
                    raise BadEntryError(message)
                target = self._links[path]
                start = [] if target.startswith(b"/") or not here else here.split(b"/")
                steps = [p for p in target.split(b"/") if p and p != b"."]
                here = self._directory([*start, *steps], make=make, links=links + 1)
                continue
            if kind is None or kind == _WHITEOUT:
                if not make:
                    message = f"entry {show(path)}: it is not in the layer"
                    raise BadEntryError(message)
                self._make_directory(path)
                self.implied.add(path)
            elif kind != _DIR:
                message = f"entry {show(path)}: it is no directory, but another entry lies in it"
                raise BadEntryError(message)
            here = path
        return here

    def _make_directory(self, path: bytes) -> None:
        old = self._kinds.get(path)
        if old is not None:
            # what stood here hides the lower layers' directory, and so must the new one
            self._remove(path)
            self.opaque.add(path)
        _bound(path)
        os.mkdir(path, 0o755)
        self._kinds[path] = _DIR

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
        kind = self._kinds.get(path)
        if kind is None:
            # device 0:0 needs no CAP_MKNOD (Linux 5.8)
            os.mknod(path, stat.S_IFCHR, 0)
            self._kinds[path] = _WHITEOUT
        elif kind == _DIR:
            # a whiteout is about the lower layers only: what this layer adds itself stays
            self.opaque.add(path)

    def _put(self, path: bytes, entry: Entry, write_data: Callable[[int], None]) -> None:
        _bound(path)
        mode = entry.mode
        if entry.hardlink is not None:
            self._put_hardlink(path, entry.hardlink)
        elif stat.S_ISDIR(mode):
            if self._kinds.get(path) != _DIR:
                self._make_directory(path)
            self._dress_directory(path, entry)
        elif stat.S_ISREG(mode):
            self._clear(path)
            self._put_file(path, entry, write_data)
        elif stat.S_ISLNK(mode):
            self._clear(path)
            self._put_symlink(path, entry)
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            self._clear(path)
            if stat.S_ISCHR(mode) and entry.device == (0, 0):
                os.mknod(path, stat.S_IFCHR, 0)
                self._kinds[path] = _WHITEOUT
            else:
                self.devices[path] = entry
                self._kinds[path] = _DEVICE
        elif stat.S_ISFIFO(mode):
            self._clear(path)
            os.mkfifo(path, 0o600)
            self._kinds[path] = _FILE
            self._dress(path, entry)
        else:
            message = f"entry {show(entry.name)}: a file of type {stat.S_IFMT(mode):o}"
            raise BadEntryError(message)

    def _put_file(self, path: bytes, entry: Entry, write_data: Callable[[int], None]) -> None:
        fd = os.open(path, _CREATE, 0o600)
        try:
            self._kinds[path] = _FILE
            if entry.size > 0:
                write_data(fd)
                if entry.sparse:
                    os.ftruncate(fd, entry.size)
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode & 0o7777)
            for name, value in entry.xattrs:
                _set_xattr(fd, name, value)
            at_ns = _clamped(entry.mtime_ns)
            os.utime(fd, ns=(at_ns, at_ns))
        finally:
            os.close(fd)

    def _put_symlink(self, path: bytes, entry: Entry) -> None:
        target = entry.symlink or b""
        if not target:
            message = f"entry {show(entry.name)}: a symbolic link to nothing"
            raise BadEntryError(message)
        os.symlink(target, path)
        self._kinds[path] = _LINK
        self._links[path] = target
        self._dress(path, entry, link=True)

    def _put_hardlink(self, path: bytes, target: bytes) -> None:
        parts = parts_of(target)
        if not parts:
            message = f"entry {show(path)}: a hard link to the root"
            raise BadEntryError(message)
        parent = self._directory(parts[:-1], make=False)
        real = parent + b"/" + parts[-1] if parent else parts[-1]
        kind = self._kinds.get(real)
        if kind not in (_FILE, _LINK, _DEVICE):
            message = f"entry {show(path)}: a hard link to {show(target)}, which is no file of the layer"
            raise BadEntryError(message)
        if real == path:
            return
        self._clear(path)
        if self._kinds.get(real) != kind:
            message = f"entry {show(path)}: a hard link that replaces its own target"
            raise BadEntryError(message)
        if kind == _DEVICE:
            self.devices[path] = self.devices[real]
        else:
            os.link(real, path, follow_symlinks=False)
        if kind == _LINK:
            self._links[path] = self._links[real]
        self._kinds[path] = kind

    def _dress_directory(self, path: bytes, entry: Entry) -> None:
        self.implied.discard(path)
        acl = next((value for name, value in entry.xattrs if name == _DEFAULT_ACL), None)
        if acl:
            # inherited by what is made in the directory, so it comes last
            self._dir_acls[path] = acl
        self._dress(path or b".", entry)
        self._dir_times[path] = _clamped(entry.mtime_ns)

    def _dress(self, path: bytes, entry: Entry, *, link: bool = False) -> None:
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
        if not link:
            os.chmod(path, entry.mode & 0o7777)
        for name, value in entry.xattrs:
            if name != _DEFAULT_ACL:
                _set_xattr(path, name, value)
        at_ns = _clamped(entry.mtime_ns)
        os.utime(path, ns=(at_ns, at_ns), follow_symlinks=False)

    def _clear(self, path: bytes) -> None:
        if path in self._kinds:
            self._remove(path)

    def _remove(self, path: bytes) -> None:
        """Take away what an earlier entry of this layer has put here."""
        doomed = [path]
        if self._kinds[path] == _DIR:
            below = path + b"/"
            doomed += [p for p in self._kinds if p.startswith(below)]
            doomed.sort(key=len, reverse=True)
        for each in doomed:
            kind = self._kinds.pop(each)
            if kind == _DEVICE:
                del self.devices[each]
            elif kind == _DIR:
                os.rmdir(each)
            else:
                os.unlink(each)
            self._links.pop(each, None)
            self._dir_times.pop(each, None)
            self._dir_acls.pop(each, None)
            self.opaque.discard(each)
            self.implied.discard(each)
        self._parents.clear()


def _bound(path: bytes) -> None:
    # links that lead to long paths can make a short name long
    if len(path) > MAX_PATH_BYTES:
        message = f"entry {show(path)}: its path has {len(path)} bytes, more than {MAX_PATH_BYTES}"
        raise BadEntryError(message)


def _clamped(at_ns: int) -> int:
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
