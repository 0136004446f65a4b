"""The files of a layer as its table of contents has them, in overlayfs form, checked as an unpacking checks them.

What an unpacking would have to think about (a name twice, a name below a symbolic link, …) is refused here: such a
layer is unpacked.
"""

import re
import stat
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from snapshotd.diff.whiteout import OPAQUE, OPAQUE_XATTR, PREFIX, hidden_name, parts_of, show
from snapshotd.lazy.toc import NAME, NO_PREFETCH, PREFETCH, ZEROS, BadTocError, Bounds, Entry

ROOT = 1
"""The root's number, which FUSE fixes."""
MAX_CHUNK_BYTES = 16 << 20
MAX_INNER_BYTES = 16 << 20
"""Bounds on what is decompressed to give out one byte; writers cut files at 4 MiB."""
_MAX_NAME, _MAX_TARGET, _MAX_XATTR, _MAX_XATTRS = 255, 4095, 65_536, 256
_MAX_ID = 0xFFFFFFFE
_MAX_MAJOR, _MAX_MINOR = 0xFFF, 0xFFFFF
_KEPT_XATTRS = ("user.", "security.", "system.posix_acl_")
"""As an unpacking has them (diff/apply.py)."""
_TYPES = {
    "dir": stat.S_IFDIR, "reg": stat.S_IFREG, "symlink": stat.S_IFLNK, "char": stat.S_IFCHR, "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}  # fmt: skip
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_SLACK_BYTES = 65_536
_HIDDEN = frozenset(name.encode() for name in (NAME, PREFETCH, NO_PREFETCH))


class Chunk(NamedTuple):
    """A piece of a file; it begins `inner` bytes into the gzip member or zstd frame at `offset` of the blob."""

    start: int
    size: int
    offset: int
    inner: int
    end: int
    """Where in the blob what it needs ends, at most."""
    sha256: bytes
    """Empty for a hole: all of it is zero."""


class Node:
    """A file of any type."""

    __slots__ = (
        "children",
        "chunks",
        "gid",
        "link",
        "mode",
        "mtime_ns",
        "nlink",
        "number",
        "parent",
        "rdev",
        "size",
        "uid",
        "xattrs",
    )

    def __init__(self, number: int, mode: int, parent: int = ROOT) -> None:
        self.number, self.mode, self.parent = number, mode, parent
        self.uid = self.gid = self.size = self.mtime_ns = self.rdev = 0
        self.nlink = 1
        self.link = b""
        self.children: dict[bytes, int] = {}
        self.chunks: tuple[Chunk, ...] = ()
        self.xattrs: dict[bytes, bytes] = {}


class Tree:
    """All of a layer.

    Args:
        entries: the table.
        end: where the blob's files end: the table's offset.
        bounds: on the sum of the sizes.

    Raises:
        BadEntryError: something in it is never to be served.
    """

    def __init__(self, entries: Iterable[Entry], end: int, bounds: Bounds) -> None:
        self._nodes: list[Node] = []
        self._paths: dict[bytes, Node] = {}
        self._implied: set[bytes] = {b""}
        self._bytes_left = bounds.max_bytes
        self.prefetch_bytes = 0
        """So many from the blob's beginning are needed first."""
        root = self._new(stat.S_IFDIR | 0o755)
        root.nlink = 2
        self._paths[b""] = root
        listed = list(entries)
        self._starts = sorted({e.offset for e in listed if e.type in ("reg", "chunk") and e.offset})
        self._end = end
        hidden: list[bytes] = []
        for entry, pieces in _files(listed):
            self._add(entry, pieces, hidden)
        for path in hidden:
            self._hide(path)
        self.size_bytes = bounds.max_bytes - self._bytes_left

    def node(self, number: int) -> Node:
        """The file with this number.

        Raises:
            IndexError: there is none.
        """
        return self._nodes[number - 1]

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def implied(self) -> list[bytes]:
        """Directories that no entry describes."""
        return sorted(self._implied)

    def find(self, path: bytes) -> Node | None:
        """The file at a path without a link in it; b"" is the root."""
        return self._paths.get(path)

    def forget_paths(self) -> None:
        """Free what only `find` and `implied` need."""
        self._paths.clear()
        self._implied.clear()

    def _new(self, mode: int, parent: int = ROOT) -> Node:
        node = Node(len(self._nodes) + 1, mode, parent)
        self._nodes.append(node)
        return node

    def _add(self, entry: Entry, pieces: list[Entry], hidden: list[bytes]) -> None:
        name = _encoded(entry.name)
        parts = parts_of(name)
        if len(parts) == 1 and parts[0] in _HIDDEN:
            if parts[0] == PREFETCH.encode():
                self.prefetch_bytes = min(max(entry.offset, 0), self._end)
            return
        if any(len(part) > _MAX_NAME for part in parts):
            raise BadTocError(f"entry {show(name)}: a name of more than {_MAX_NAME} bytes")
        path = b"/".join(parts)
        if parts and parts[-1].startswith(PREFIX):
            hidden.append(path)
            return
        if entry.type == "hardlink":
            self._link(path, parts_of(_encoded(entry.link_name)))
            return
        mode = _TYPES.get(entry.type)
        if mode is None:
            raise BadTocError(f"entry {show(name)}: a file of type {entry.type[:20]!r}")
        node = self._place(path, mode, described=True)
        self._dress(node, name, entry)
        if mode == stat.S_IFREG:
            node.size = entry.size
            node.chunks = self._chunks(name, entry, pieces)

    def _place(self, path: bytes, kind: int, *, described: bool) -> Node:
        """The new node of a path; of a directory that was only gone through, the one that it has."""
        known = self._paths.get(path)
        if known:
            if described and kind == stat.S_IFDIR and path in self._implied:
                self._implied.discard(path)
                return known
            raise BadTocError(f"entry {show(path)}: it is there twice, or is a directory that is none")
        parent = self._parent(path)
        node = self._new(kind, parent.number)
        parent.children[path.rpartition(b"/")[2]] = node.number
        if kind == stat.S_IFDIR:
            node.nlink = 2
            parent.nlink += 1
            if not described:
                node.mode |= 0o755
                self._implied.add(path)
        self._paths[path] = node
        return node

    def _parent(self, path: bytes) -> Node:
        above = path.rpartition(b"/")[0]
        missing: list[bytes] = []
        while above not in self._paths:
            missing.append(above)
            above = above.rpartition(b"/")[0]
        node = self._paths[above]
        if not stat.S_ISDIR(node.mode):
            raise BadTocError(f"entry {show(path)}: {show(above)} above it is no directory")
        for each in reversed(missing):
            node = self._place(each, stat.S_IFDIR, described=False)
        return node

    def _link(self, path: bytes, target: list[bytes]) -> None:
        node = self._paths.get(b"/".join(target))
        if node is None or stat.S_ISDIR(node.mode):
            raise BadTocError(f"entry {show(path)}: a hard link to what is no file before it")
        if path in self._paths:
            raise BadTocError(f"entry {show(path)}: it is there twice")
        self._parent(path).children[path.rpartition(b"/")[2]] = node.number
        self._paths[path] = node
        node.nlink += 1

    def _hide(self, path: bytes) -> None:
        above, _, base = path.rpartition(b"/")
        parent = self._parent(path)
        if base == OPAQUE:
            parent.xattrs = parent.xattrs | {OPAQUE_XATTR.encode(): b"y"}
            return
        name = hidden_name(base)
        if not name:
            return
        hidden = above + b"/" + name if above else name
        node = self._paths.get(hidden)
        if node is None:
            self._place(hidden, stat.S_IFCHR, described=True)
        elif stat.S_ISDIR(node.mode):
            node.xattrs = node.xattrs | {OPAQUE_XATTR.encode(): b"y"}

    def _dress(self, node: Node, name: bytes, entry: Entry) -> None:
        if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
            raise BadTocError(f"entry {show(name)}: owner {entry.uid}:{entry.gid} cannot be")
        node.mode = stat.S_IFMT(node.mode) | (entry.mode & 0o7777)
        node.uid, node.gid = entry.uid, entry.gid
        node.mtime_ns = _time_ns(name, entry.modtime)
        if len(entry.xattrs) > _MAX_XATTRS or any(
            len(value) > _MAX_XATTR or len(key) > _MAX_NAME for key, value in entry.xattrs.items()
        ):
            raise BadTocError(f"entry {show(name)}: more or larger attributes than a file can have")
        node.xattrs = {_encoded(k): v for k, v in entry.xattrs.items() if k.startswith(_KEPT_XATTRS)}
        if stat.S_ISLNK(node.mode):
            node.mode |= 0o777
            node.link = _encoded(entry.link_name)
            node.size = len(node.link)
            if not 0 < node.size <= _MAX_TARGET or b"\0" in node.link:
                raise BadTocError(f"entry {show(name)}: a symbolic link to nothing, or too long")
        elif stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
            major, minor = entry.dev_major, entry.dev_minor
            if not (0 <= major <= _MAX_MAJOR and 0 <= minor <= _MAX_MINOR):
                raise BadTocError(f"entry {show(name)}: device {major}:{minor} cannot be")
            node.rdev = (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)

    def _chunks(self, name: bytes, entry: Entry, pieces: list[Entry]) -> tuple[Chunk, ...]:
        self._bytes_left -= max(entry.size, 0)
        if entry.size < 0 or self._bytes_left < 0:
            raise BadTocError(f"entry {show(name)}: its files are larger than the settings allow")
        if not entry.size:
            return ()
        chunks = []
        at = 0
        for piece in (entry, *pieces):
            size = piece.chunk_size or entry.size - piece.chunk_offset
            digest = piece.chunk_digest or (entry.digest if size == entry.size else "")
            hole = piece.chunk_type == ZEROS
            most = entry.size - at if hole else min(MAX_CHUNK_BYTES, entry.size - at)
            if piece.chunk_offset != at or not 0 < size <= most:
                raise BadTocError(
                    f"entry {show(name)}: its chunk at {piece.chunk_offset} of {size} bytes cannot be"
                )
            if hole:
                chunks.append(Chunk(at, size, 0, 0, 0, b""))
                at += size
                continue
            if not _SHA256.fullmatch(digest):
                raise BadTocError(f"entry {show(name)}: its chunk at {at} has no SHA-256")
            if not (0 <= piece.offset < self._end and 0 <= piece.inner_offset <= MAX_INNER_BYTES):
                raise BadTocError(f"entry {show(name)}: its chunk at {at} is outside of the blob")
            needed = size + piece.inner_offset
            end = min(self._next(piece.offset), piece.offset + needed + needed // 128 + _SLACK_BYTES)
            chunks.append(Chunk(at, size, piece.offset, piece.inner_offset, end, bytes.fromhex(digest[7:])))
            at += size
        if at != entry.size:
            raise BadTocError(f"entry {show(name)}: its chunks end at byte {at} of {entry.size}")
        return tuple(chunks)

    def _next(self, offset: int) -> int:
        """Where the member or frame at an offset ends."""
        index = bisect_right(self._starts, offset)
        return min(self._starts[index], self._end) if index < len(self._starts) else self._end


def _files(entries: list[Entry]) -> Iterator[tuple[Entry, list[Entry]]]:
    """Each entry with the chunks that follow it."""
    file: Entry | None = None
    pieces: list[Entry] = []
    for entry in entries:
        if entry.type == "chunk":
            if file is None or file.type != "reg" or entry.name not in ("", file.name):
                raise BadTocError(f"entry {show(_encoded(entry.name))}: a chunk of no file")
            pieces.append(entry)
            continue
        if file:
            yield file, pieces
        file, pieces = entry, []
    if file:
        yield file, pieces


def _encoded(name: str) -> bytes:
    """A name in bytes. JSON has no others than UTF-8: a writer puts U+FFFD where it lost some."""
    if "\N{REPLACEMENT CHARACTER}" in name or "\0" in name:
        raise BadTocError(f"entry {name[:100]!r}: its name was not UTF-8, or has a NUL")
    try:
        return name.encode()
    except UnicodeEncodeError as exc:
        raise BadTocError(f"entry {name[:100]!r}: its name is not UTF-8") from exc


def _time_ns(name: bytes, text: str) -> int:
    if not text:
        return 0
    try:
        at = datetime.fromisoformat(text)
        return max(int(at.replace(tzinfo=at.tzinfo or UTC).timestamp()) * 1_000_000_000, 0)
    except (ValueError, OverflowError) as exc:
        raise BadTocError(f"entry {show(name)}: its time {text[:40]!r} is none") from exc
