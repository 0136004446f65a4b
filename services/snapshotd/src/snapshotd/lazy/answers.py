"""What each request of the kernel is answered: from the tree at once, or with bytes that may have to be brought."""

import errno
import stat
from functools import lru_cache

from snapshotd.lazy import wire
from snapshotd.lazy.chunks import Chunks
from snapshotd.lazy.tree import Chunk, Node, Tree

_LISTINGS = 16


class AwayError(Exception):
    """The bytes are not here: ask again where one may wait."""


class Answers:
    """One layer as a filesystem; from any thread.

    Args:
        tree: its files.
        chunks: their bytes.
    """

    def __init__(self, tree: Tree, chunks: Chunks) -> None:
        self._tree, self._chunks = tree, chunks
        self._listing = lru_cache(_LISTINGS)(self._list)

    def answer(self, asked: wire.Request, *, wait: bool) -> bytes:
        """The answer's bytes, without its header.

        Raises:
            AwayError: bytes are not here, and `wait` is not set.
            OSError: with the errno to answer; without one, bytes cannot be had.
        """
        match asked.opcode:
            case wire.INIT:
                return wire.init(asked.body)
            case wire.STATFS:
                return wire.statfs(self._tree.size_bytes, len(self._tree))
            case wire.DESTROY:
                return b""
            case _:
                return self._of_node(asked, wait=wait)

    def _of_node(self, asked: wire.Request, *, wait: bool) -> bytes:
        try:
            node = self._tree.node(asked.node)
        except IndexError as exc:
            raise OSError(errno.ESTALE, "no such node") from exc
        match asked.opcode:
            case wire.LOOKUP:
                number = node.children.get(asked.body.rstrip(b"\0"))
                return wire.entry(self._tree.node(number)) if number else wire.no_entry()
            case wire.GETATTR:
                return wire.attributes(node)
            case wire.READLINK:
                return node.link
            case wire.READ:
                return self._read(node, *wire.read_of(asked.body), wait=wait)
            case wire.READDIR:
                return wire.dirents(self._listing(node.number), *wire.read_of(asked.body))
            case wire.GETXATTR | wire.LISTXATTR:
                return _xattr(node, asked)
            case _:
                # OPEN and OPENDIR, too: the kernel then opens without asking, and keeps what it has read
                raise OSError(errno.ENOSYS, "not answered")

    def _list(self, number: int) -> list[tuple[bytes, int, int]]:
        node = self._tree.node(number)
        found = [(b".", number, node.mode), (b"..", node.parent, stat.S_IFDIR)]
        return found + [(name, each, self._tree.node(each).mode) for name, each in node.children.items()]

    def _read(self, node: Node, offset: int, size: int, *, wait: bool) -> bytes:
        end = min(offset + size, node.size)
        return b"".join(self._pieces(node.chunks, offset, end, wait=wait))

    def _pieces(self, chunks: tuple[Chunk, ...], offset: int, end: int, *, wait: bool) -> list[bytes]:
        pieces = []
        index = _first(chunks, offset)
        while offset < end:
            chunk = chunks[index]
            if chunk.sha256:
                content = self._chunks.get(chunk) if wait else self._chunks.here(chunk)
                if content is None:
                    raise AwayError
                piece = content[offset - chunk.start : end - chunk.start]
            else:
                piece = bytes(min(end, chunk.start + chunk.size) - offset)
            pieces.append(piece)
            offset += len(piece)
            index += 1
        return pieces


def _first(chunks: tuple[Chunk, ...], offset: int) -> int:
    """The chunk that has an offset."""
    low, high = 0, len(chunks) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if chunks[middle].start <= offset:
            low = middle
        else:
            high = middle - 1
    return low


def _xattr(node: Node, asked: wire.Request) -> bytes:
    room, name = wire.xattr_of(asked.body)
    if asked.opcode == wire.GETXATTR:
        found = node.xattrs.get(name)
        if found is None:
            raise OSError(errno.ENODATA, "no such attribute")
    else:
        found = b"".join(key + b"\0" for key in node.xattrs)
    if not room:
        return wire.xattr_size(len(found))
    if len(found) > room:
        raise OSError(errno.ERANGE, "too little room")
    return found
