"""Files of a container and of our own, by directory descriptors, as entries of a tar archive.

A container is hostile: it may swap a directory for a link while we walk. Each path in it is resolved by the kernel
below its root (openat2, RESOLVE_IN_ROOT), nothing of it is run, its devices and pipes are never opened, and what
is written to our side is written below the target without following links.
"""

import errno
import os
import stat
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from common.errors import InvalidArgumentError
from common.sys import linux
from common.tarmember import Member, members

CHUNK_BYTES = 1 << 20
MAX_DEPTH = 100
"""Directories in directories; each takes a descriptor."""
_XATTR = "SCHILY.xattr."
"""How tar has extended attributes, before the name of each."""
_IN_ROOT = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
_NO_LINKS = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS


@dataclass(frozen=True)
class Place:
    """A file system to copy from or to; `root` is a container's root, or -1 for our own files."""

    root: int = -1

    def open(self, path: str, flags: int) -> int:
        """A descriptor of a path; links are followed, those of a container below its root."""
        if self.root < 0:
            return os.open(path, flags | os.O_CLOEXEC)
        return linux.openat2(self.root, path.lstrip("/") or ".", flags | os.O_CLOEXEC, resolve=_IN_ROOT)

    def kind(self, path: str) -> int:
        """The file type bits of what a path leads to; 0 when there is nothing."""
        try:
            with self.opened(path, os.O_PATH) as fd:
                return stat.S_IFMT(os.fstat(fd).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return 0

    @contextmanager
    def opened(self, path: str, flags: int) -> Iterator[int]:
        """As `open`, closed afterwards."""
        fd = self.open(path, flags)
        try:
            yield fd
        finally:
            os.close(fd)


@contextmanager
def named(name: str) -> Iterator[None]:
    """Let an error of the kernel speak of a path by its name, not by that of a descriptor."""
    try:
        yield
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, name) from exc


class Content(Protocol):
    """What is in a file."""

    def read(self, size: int = -1, /) -> bytes: ...


Entry = tuple[tarfile.TarInfo, Content | None]


def entries(place: Place, path: str, name: str, *, follow: bool) -> Iterator[Entry]:
    """What is at a path, and all below it, with `name` in place of the path.

    Args:
        place: where it is.
        path: what to read; its directory is resolved with links, it itself only with `follow`.
        name: what the first entry is called.
        follow: a link at the path stands for what it leads to.
    """
    parent, _, base = path.rstrip("/").rpartition("/")
    if follow or base in ("", ".", ".."):
        with place.opened(path, os.O_PATH) as fd:
            yield from _tree(fd, name, 0)
        return
    parent = parent or ("/" if path.startswith("/") else ".")
    with place.opened(parent, os.O_PATH | os.O_DIRECTORY) as fd:
        yield from _child(fd, base, name, 0)


def _child(parent: int, base: str, name: str, depth: int) -> Iterator[Entry]:
    fd = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        yield from _tree(fd, name, depth)
    finally:
        os.close(fd)


def _tree(fd: int, name: str, depth: int) -> Iterator[Entry]:
    """The entries of an O_PATH descriptor, which fixes what is looked at."""
    if depth > MAX_DEPTH:
        message = f"{name}: more than {MAX_DEPTH} directories in each other"
        raise InvalidArgumentError(message)
    found = os.fstat(fd)
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = stat.S_IMODE(found.st_mode), int(found.st_mtime)
    info.uid, info.gid = found.st_uid, found.st_gid
    if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
        info.pax_headers = _attributes(f"/proc/self/fd/{fd}")
    match stat.S_IFMT(found.st_mode):
        case stat.S_IFREG:
            with named(name):
                opened = Path(f"/proc/self/fd/{fd}").open("rb")  # noqa: SIM115 - closed by the next line
            with opened as file:
                info.size = os.fstat(file.fileno()).st_size
                yield info, file
        case stat.S_IFDIR:
            info.type = tarfile.DIRTYPE
            yield info, None
            reader = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            try:
                names = sorted(os.listdir(reader))  # noqa: PTH208 - of a descriptor
            finally:
                os.close(reader)
            for base in names:
                try:
                    yield from _child(fd, base, f"{name}/{base}", depth + 1)
                except FileNotFoundError:
                    continue  # it has gone meanwhile
        case stat.S_IFLNK:
            info.type = tarfile.SYMTYPE
            info.linkname = os.readlink("", dir_fd=fd)
            yield info, None
        case stat.S_IFIFO:
            info.type = tarfile.FIFOTYPE
            yield info, None
        case stat.S_IFCHR | stat.S_IFBLK:
            info.type = tarfile.CHRTYPE if stat.S_ISCHR(found.st_mode) else tarfile.BLKTYPE
            info.devmajor, info.devminor = os.major(found.st_rdev), os.minor(found.st_rdev)
            yield info, None
        case _:
            return  # sockets mean nothing elsewhere


def _travels(attribute: str) -> bool:
    return attribute.startswith("user.") or attribute == "security.capability"


def _attributes(path: str) -> dict[str, str]:
    """Users' attributes and a program's capabilities, as pax headers; others mean something where they are only."""
    try:
        names = os.listxattr(path)
    except OSError:  # a file system without them
        return {}
    found = {}
    for name in sorted(names):
        if _travels(name):
            with suppress(OSError):  # it has gone meanwhile
                found[_XATTR + name] = os.getxattr(path, name).decode(errors="surrogateescape")
    return found


class Target:
    """A directory that entries are written below.

    Args:
        place: where it is.
        path: the directory; it exists.
        owners: keep user and group ids; without, all belongs to us, which is root in a container.
        name: what errors call the directory; without one, as its path.
    """

    def __init__(self, place: Place, path: str, *, owners: bool, name: str = "") -> None:
        self._place = place
        self._path = path
        self._name = name or path
        self._owners = owners
        self.bytes = 0
        self.skipped: list[str] = []
        """Devices and pipes, which are not made."""

    def write(self, info: tarfile.TarInfo, data: Content | None) -> None:
        """Write one entry; what is no directory makes way for it."""
        names = [part for part in info.name.split("/") if part not in ("", ".")]
        if ".." in names:
            message = f"{info.name!r}: leads out of the archive"
            raise InvalidArgumentError(message)
        with named("/".join([self._name.rstrip("/"), *names])):
            parent = self._open("/".join(names[:-1]))
            try:
                self._put(parent, names[-1] if names else ".", info, data)
            finally:
                os.close(parent)

    def _open(self, below: str) -> int:
        flags = os.O_PATH | os.O_DIRECTORY
        if self._place.root >= 0:  # a link in a container leads to where it leads there
            return self._place.open(f"{self._path}/{below}", flags)
        with self._place.opened(self._path, flags) as top:
            return linux.openat2(top, below or ".", flags | os.O_CLOEXEC, resolve=_NO_LINKS)

    def _put(self, parent: int, base: str, info: tarfile.TarInfo, data: Content | None) -> None:
        if info.isdir():
            self._directory(parent, base, info)
        elif info.issym():
            _make_way(parent, base)
            os.symlink(info.linkname, base, dir_fd=parent)
            if self._owners:
                os.chown(base, info.uid, info.gid, dir_fd=parent, follow_symlinks=False)
        elif info.islnk():
            self._link(parent, base, info)
        elif info.isreg() and data is not None:
            self._file(parent, base, info, data)
        else:
            self.skipped.append(info.name)

    def _directory(self, parent: int, base: str, info: tarfile.TarInfo) -> None:
        try:
            os.mkdir(base, info.mode & 0o777, dir_fd=parent)
        except FileExistsError:
            self._merge(parent, base)
            return
        fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._settle(fd, info)
        finally:
            os.close(fd)

    def _merge(self, parent: int, base: str) -> None:
        """What is there must be a directory; a container's may be reached by a link."""
        kind = stat.S_IFMT(os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode)
        if kind != stat.S_IFDIR and not (kind == stat.S_IFLNK and self._place.root >= 0):
            raise NotADirectoryError(errno.ENOTDIR, "a directory cannot replace it")

    def _file(self, parent: int, base: str, info: tarfile.TarInfo, data: Content) -> None:
        fd = _reuse(parent, base)
        if fd < 0:
            _make_way(parent, base)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(base, flags, 0o600, dir_fd=parent)
        with os.fdopen(fd, "wb") as file:
            while chunk := data.read(CHUNK_BYTES):
                file.write(chunk)
                self.bytes += len(chunk)
            file.flush()
            self._settle(file.fileno(), info)

    def _link(self, parent: int, base: str, info: tarfile.TarInfo) -> None:
        """A hard link of an archive: one more name of what it wrote before."""
        names = [part for part in info.linkname.split("/") if part not in ("", ".")]
        if not names or ".." in names:
            message = f"{info.name!r}: its link {info.linkname!r} leads out of the archive"
            raise InvalidArgumentError(message)
        source = self._open("/".join(names[:-1]))
        try:
            _make_way(parent, base)
            os.link(names[-1], base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def _settle(self, fd: int, info: tarfile.TarInfo) -> None:
        mode = info.mode & 0o7777
        if self._owners:
            os.fchown(fd, info.uid, info.gid)
        elif self._place.root < 0:
            mode &= 0o777  # a container's setuid program must not become one of root's
        os.fchmod(fd, mode)
        if (
            self._owners and self._place.root >= 0
        ):  # of our own files none shall have a container's capabilities
            _attribute(fd, info)
        os.utime(fd, (info.mtime, info.mtime))


def _attribute(fd: int, info: tarfile.TarInfo) -> None:
    """Set extended attributes; after the owner, whose change takes capabilities away."""
    for header, value in info.pax_headers.items():
        name = header.removeprefix(_XATTR)
        if name != header and _travels(name):
            try:
                os.setxattr(fd, name, value.encode(errors="surrogateescape"))
            except OSError as exc:
                if exc.errno != errno.ENOTSUP:
                    raise


def _reuse(parent: int, base: str) -> int:
    """A regular file that is there, emptied, which keeps its inode for those that have it mounted; else -1."""
    try:
        fd = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return -1
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return -1
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    finally:
        os.close(fd)


def _make_way(parent: int, base: str) -> None:
    try:
        os.unlink(base, dir_fd=parent)
    except FileNotFoundError:
        return
    except IsADirectoryError as exc:
        raise IsADirectoryError(errno.EISDIR, "a file cannot replace this directory") from exc


def from_archive(stream: "IO[bytes]") -> Iterator[Entry]:
    """The entries of a tar stream, compressed or not.

    Raises:
        InvalidArgumentError: it is none.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|*", tarinfo=Member) as archive:
            for info in members(archive):
                yield info, archive.extractfile(info) if info.isreg() else None
    except tarfile.TarError as exc:
        message = f"standard input: is no tar archive: {exc}"
        raise InvalidArgumentError(message) from exc


def to_archive(found: Iterator[Entry]) -> None:
    """Entries as a tar stream on standard output."""
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for info, data in found:
            archive.addfile(info, data)
