"""COPY and ADD: what is copied, its digest, and where it goes by Docker's rules.

Sources are resolved by the kernel below the context or a stage's root, targets below the root of the new image:
neither a path nor a link leads out.
"""

import fnmatch
import hashlib
import io
import os
import posixpath
import re
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import InvalidArgumentError, NotFoundError
from slipway.building import unpacking
from slipway.building.ignore import Ignore
from slipway.files import CHUNK_BYTES, Content, Entry, Place, Target, entries

_WILD = "*?["
_ID = re.compile(r"[0-9]{1,10}")
MAX_TABLE_BYTES = 1 << 20
"""Of an image's /etc/passwd and /etc/group, as where its processes get their users."""
EVERYTHING = Ignore()
"""Leaves nothing out."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file or directory to copy; its name is the last part of its path."""

    place: Place
    path: str
    """Below the place, without a slash in front."""
    ignore: Ignore = EVERYTHING
    content: bytes | None = None
    """What a heredoc says, in place of a file."""
    whole: bool = False
    """ADD does not unpack it: an archive from elsewhere."""

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)

    def is_directory(self) -> bool:
        return self.content is None and self.place.kind(self.path or ".") == stat.S_IFDIR

    def entries(self) -> Iterator[Entry]:
        """All of it that counts, its own entry first; a directory's is called '.'."""
        if self.content is not None:
            info = tarfile.TarInfo(self.name)
            info.size, info.mode = len(self.content), 0o644
            yield info, io.BytesIO(self.content)
            return
        held: dict[str, tarfile.TarInfo] = {}
        root = "." if self.is_directory() else self.name
        for info, data in entries(self.place, self.path or ".", root, follow=True):
            below = info.name[2:] if root == "." else ""
            if info.name != root and self.ignore.leaves_out(posixpath.join(self.path, below)):
                if info.isdir():
                    held[info.name] = info
                continue
            # a directory that is left out comes all the same when something in it does not
            parts = info.name.split("/")
            for count in range(1, len(parts)):
                above = held.pop("/".join(parts[:count]), None)
                if above is not None:
                    yield above, None
            yield info, data


def sources(place: Place, words: list[str], ignore: Ignore) -> list[Source]:
    """What paths and patterns mean.

    Raises:
        NotFoundError: one means nothing.
    """
    found: list[Source] = []
    for word in words:
        path = posixpath.normpath(f"/{word}").lstrip("/")
        paths = _matching(place, path) if any(c in word for c in _WILD) else [path]
        there = [one for one in paths if _exists(place, one) and not (one and ignore.leaves_out(one))]
        if not there:
            left_out = " (.dockerignore leaves it out)" if any(_exists(place, one) for one in paths) else ""
            message = f"{word!r}: not found{left_out}"
            raise NotFoundError(message)
        found += [Source(place, one, ignore) for one in there]
    return found


def _exists(place: Place, path: str) -> bool:
    try:
        return bool(place.kind(path or "."))
    except OSError as exc:
        message = f"{path!r}: {exc.strerror}"
        raise InvalidArgumentError(message) from exc


def _matching(place: Place, pattern: str) -> list[str]:
    found = [""]
    for part in pattern.split("/"):
        if not any(c in part for c in _WILD):
            found = [posixpath.join(above, part) for above in found]
            continue
        matched = []
        for above in found:
            if place.kind(above or ".") != stat.S_IFDIR:
                continue
            with place.opened(above or ".", os.O_RDONLY | os.O_DIRECTORY) as fd:
                names = sorted(os.listdir(fd))  # noqa: PTH208 - of a descriptor
            matched += [
                posixpath.join(above, name)
                for name in names
                if fnmatch.fnmatchcase(name, part.replace("[^", "[!"))
            ]
        found = matched
    return found


class Digest:
    """Of names, kinds, modes, extended attributes and content; when they were written does not count."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()

    def entries(self, source: Source) -> Iterator[Entry]:
        """Those of a source, which count as they are read."""
        self._whole.update(repr(source.name).encode())
        for info, data in source.entries():
            facts = (info.name, info.type, info.mode, info.linkname, info.size, info.devmajor, info.devminor)
            self._whole.update(repr((facts, sorted(info.pax_headers.items()))).encode())
            yield info, _Counted(data, self._whole) if data is not None else None

    def read(self, source: Source) -> None:
        """Let a source count."""
        for _, data in self.entries(source):
            while data is not None and data.read(CHUNK_BYTES):
                pass

    def text(self) -> str:
        """In hexadecimal."""
        return self._whole.hexdigest()


class _Counted:
    """A file that counts in a digest as it is read."""

    def __init__(self, data: Content, whole: "hashlib._Hash") -> None:
        self._data, self._whole = data, whole

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._data.read(size)
        self._whole.update(chunk)
        return chunk


def digest(found: list[Source]) -> str:
    """Of all sources, as they are now."""
    whole = Digest()
    for source in found:
        whole.read(source)
    return whole.text()


@dataclass(frozen=True, slots=True)
class Copy:
    """A COPY, or an ADD, which unpacks archives."""

    sources: list[Source]
    target: str
    """Absolute; a slash at its end means a directory."""
    uid: int = 0
    gid: int = 0
    mode: int | None = None
    unpack: bool = False

    def write(self, root: Place) -> str:
        """Copy into a root; returns the digest of what was read, which may have changed since one was taken.

        Of an archive that is unpacked it is what the archive is afterwards.

        Raises:
            InvalidArgumentError: several things would become one file, or an archive is damaged.
            OSError: with the path.
        """
        into = self.target.endswith("/") or root.kind(self.target) == stat.S_IFDIR
        if len(self.sources) > 1 and not into:
            message = f"{self.target!r}: to copy several, the target must be a directory and end with a slash"
            raise InvalidArgumentError(message)
        whole = Digest()
        for source in self.sources:
            if source.is_directory():
                self._put(root, self.target, whole.entries(source), "")
            elif self.unpack and self._unpack(root, source):
                whole.read(source)
            elif into:
                self._put(root, self.target, whole.entries(source), source.name)
            else:
                directory, _, name = self.target.rpartition("/")
                self._put(root, directory or "/", whole.entries(source), name)
        return whole.text()

    def _put(self, root: Place, directory: str, found: Iterator[Entry], name: str) -> None:
        make_directories(root, directory, self.uid, self.gid)
        target = Target(root, directory, owners=True)
        for info, data in found:
            info.name, info.uid, info.gid = name or info.name, self.uid, self.gid
            if self.mode is not None and not info.issym():
                info.mode = self.mode
            target.write(info, data)

    def _unpack(self, root: Place, source: Source) -> bool:
        """Write what an archive of the context has; returns whether it is one."""
        if source.whole or source.content is not None or source.place.kind(source.path) != stat.S_IFREG:
            return False
        with (
            os.fdopen(source.place.open(source.path, os.O_RDONLY), "rb") as file,
            unpacking.archive(file, source.path) as members,
        ):
            if members is None:
                return False
            make_directories(root, self.target, 0, 0)
            target = Target(root, self.target, owners=True)
            for info, data in members:
                parent = posixpath.dirname(info.name.strip("/"))
                if parent and ".." not in parent.split("/"):
                    make_directories(root, posixpath.join(self.target, parent), 0, 0)
                target.write(info, data)
        return True


def make_directories(root: Place, path: str, uid: int, gid: int) -> None:
    """Make a directory and those above it that are not there."""
    made = ""
    for part in (p for p in path.split("/") if p not in ("", ".")):
        above, made = made, f"{made}/{part}"
        if root.kind(made) == stat.S_IFDIR:
            continue
        with root.opened(above or "/", os.O_PATH | os.O_DIRECTORY) as fd:
            os.mkdir(part, 0o755, dir_fd=fd)
            os.chown(part, uid, gid, dir_fd=fd, follow_symlinks=False)


def owner(root: Place, text: str) -> tuple[int, int]:
    """The ids of USER[:GROUP], names by the image's own files.

    Raises:
        InvalidArgumentError: a name is not there.
    """
    user, joint, group = text.partition(":")
    uid, primary = _ids(root, "passwd", user)
    return uid, _ids(root, "group", group)[0] if joint else primary


def _ids(root: Place, table: str, name: str) -> tuple[int, int]:
    if _is_id(name):
        return int(name), int(name)
    for fields in (line.split(":") for line in _lines(root, f"etc/{table}")):
        if fields[0] == name and len(fields) > 3 and _is_id(fields[2]):
            return int(fields[2]), int(fields[3]) if _is_id(fields[3]) else int(fields[2])
    message = f"{name!r}: the image's /etc/{table} has no such name"
    raise InvalidArgumentError(message)


def _is_id(text: str) -> bool:
    """Whether it is an id that means something: -1, however it is written, would leave all to root."""
    return bool(_ID.fullmatch(text)) and int(text) < 2**31


def _lines(root: Place, path: str) -> list[str]:
    """Of a small file of the image, which is hostile: a pipe would never end, nor would a device."""
    try:
        with root.opened(path, os.O_PATH) as fd:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_TABLE_BYTES:
                message = f"the image's /{path} is no regular file of at most {MAX_TABLE_BYTES} bytes"
                raise InvalidArgumentError(message)
            return Path(f"/proc/self/fd/{fd}").read_text(errors="replace").splitlines()
    except OSError:
        return []


def with_content(name: str, content: str) -> Source:
    """A heredoc as a file."""
    return replace(Source(Place(), name), content=content.encode())
