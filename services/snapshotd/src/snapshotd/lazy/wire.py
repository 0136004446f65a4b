"""The FUSE protocol as a filesystem that is only read needs it: requests and answers in bytes (linux/fuse.h).

Minor versions from 31 (Linux 5.4) on have all of this; what a newer kernel offers is named, and asked for in `init`.
"""

import stat
import struct
from typing import NamedTuple

from snapshotd.lazy.tree import Node

LOOKUP, FORGET, GETATTR, READLINK, OPEN, READ, STATFS = 1, 2, 3, 5, 14, 15, 17
GETXATTR, LISTXATTR, INIT, READDIR, INTERRUPT, DESTROY, BATCH_FORGET = 22, 23, 26, 28, 36, 38, 42
NO_ANSWER = (FORGET, BATCH_FORGET)
REQUEST_BYTES = 8192
"""FUSE_MIN_READ_BUFFER: no request is longer, since nothing is written."""
MAJOR, MINOR = 7, 38
_OLDEST_MINOR = 31
_MAX_PAGES = 256
_ASYNC_READ, _NO_OPEN, _PARALLEL_DIROPS, _POSIX_ACL = 1 << 0, 1 << 17, 1 << 18, 1 << 20
_MAX_PAGES_FLAG, _CACHE_SYMLINKS, _NO_OPENDIR, _EXT = 1 << 22, 1 << 23, 1 << 24, 1 << 30
_FLAGS = (
    _ASYNC_READ | _NO_OPEN | _PARALLEL_DIROPS | _POSIX_ACL | _MAX_PAGES_FLAG | _CACHE_SYMLINKS | _NO_OPENDIR
)
_ALLOW_IDMAP = 1 << 8
"""Of the second 32 flags (Linux 6.12): mounts of it may map ids, as user namespaces need."""
_FOR_EVER_S = 10 * 365 * 86_400
"""How long the kernel may believe what it was told."""
_BLOCK = 512
_PAGE = 4096
_IN = struct.Struct("=IIQQIIIHH")
_OUT = struct.Struct("=IiQ")
_ATTR = struct.Struct("=QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("=QQQQII")
_ATTR_OUT = struct.Struct("=QII")
_INIT_IN, _INIT_OUT = struct.Struct("=IIIII"), struct.Struct("=IIIIHHIIHHII24x")
_READ_IN = struct.Struct("=QQI")
_XATTR = struct.Struct("=II")
_DIRENT = struct.Struct("=QQII")
_STATFS = struct.Struct("=QQQQQIIII24x")


class Request(NamedTuple):
    """What the kernel asks; `body` follows its header."""

    opcode: int
    unique: int
    node: int
    body: bytes


def request(raw: bytes | memoryview) -> Request:
    length, opcode, unique, node, *_ = _IN.unpack_from(raw)
    return Request(opcode, unique, node, bytes(raw[_IN.size : length]))


def length(raw: bytes | memoryview) -> int:
    """Of the request at the beginning of a buffer; 0 when there is none."""
    return int.from_bytes(raw[:4], "little")


def header(unique: int, size: int, error: int = 0) -> bytes:
    """What goes before the `size` bytes of an answer; with an errno nothing follows."""
    return _OUT.pack(_OUT.size + size, -error, unique)


def init(body: bytes) -> bytes:
    """The answer to the first request.

    Raises:
        ValueError: the kernel speaks another protocol.
    """
    major, minor, readahead, flags, flags2 = _INIT_IN.unpack_from(body.ljust(_INIT_IN.size, b"\0"))
    if major != MAJOR or minor < _OLDEST_MINOR:
        raise ValueError(f"FUSE {major}.{minor}: want {MAJOR}.{_OLDEST_MINOR} or a newer minor")
    taken = flags & _FLAGS
    second = flags2 & _ALLOW_IDMAP if flags & _EXT else 0
    taken |= _EXT if second else 0
    minor = min(minor, MINOR)
    return _INIT_OUT.pack(MAJOR, minor, readahead, taken, 16, 12, _PAGE, 1, _MAX_PAGES, 0, second, 0)


def entry(node: Node) -> bytes:
    """The answer to LOOKUP."""
    return _ENTRY.pack(node.number, 0, _FOR_EVER_S, _FOR_EVER_S, 0, 0) + _attributes(node)


def no_entry() -> bytes:
    """That a name is not there, and never will be."""
    return _ENTRY.pack(0, 0, _FOR_EVER_S, 0, 0, 0) + bytes(_ATTR.size)


def attributes(node: Node) -> bytes:
    """The answer to GETATTR."""
    return _ATTR_OUT.pack(_FOR_EVER_S, 0, 0) + _attributes(node)


def statfs(size: int, files: int) -> bytes:
    return _STATFS.pack(-(-size // _PAGE), 0, 0, files, 0, _PAGE, 255, _PAGE, 0)


def read_of(body: bytes) -> tuple[int, int]:
    """Offset and size of a READ or READDIR."""
    _, offset, size = _READ_IN.unpack_from(body)
    return offset, size


def xattr_of(body: bytes) -> tuple[int, bytes]:
    """The room for the answer to GETXATTR or LISTXATTR, and the attribute's name."""
    size, _ = _XATTR.unpack_from(body)
    return size, body[_XATTR.size :].rstrip(b"\0")


def xattr_size(size: int) -> bytes:
    return _XATTR.pack(size, 0)


def dirents(listed: list[tuple[bytes, int, int]], offset: int, room: int) -> bytes:
    """As many entries (name, number, mode) from one on as fit."""
    made, used = [], 0
    for place in range(offset, len(listed)):
        name, number, mode = listed[place]
        size = -(-(_DIRENT.size + len(name)) // 8) * 8
        used += size
        if used > room:
            break
        made.append(
            (_DIRENT.pack(number, place + 1, len(name), stat.S_IFMT(mode) >> 12) + name).ljust(size, b"\0")
        )
    return b"".join(made)


def _attributes(node: Node) -> bytes:
    seconds, rest = divmod(node.mtime_ns, 1_000_000_000)
    blocks = -(-node.size // _BLOCK) if stat.S_ISREG(node.mode) else 0
    size = _PAGE if stat.S_ISDIR(node.mode) else node.size
    return _ATTR.pack(
        node.number, size, blocks, seconds, seconds, seconds, rest, rest, rest,
        node.mode, node.nlink, node.uid, node.gid, node.rdev, _PAGE, 0,
    )  # fmt: skip
