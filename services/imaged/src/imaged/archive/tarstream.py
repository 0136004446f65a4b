"""A tar as it comes, in pieces of any length: members are told to a sink, nothing is believed or kept in memory.

POSIX ustar with the extensions that archives of images have (pax and GNU long names, base-256 sizes). What an
image's archive never holds is refused: devices, sparse files, names that climb, the same name twice.
"""

from collections.abc import Generator
from enum import StrEnum
from typing import NamedTuple, NoReturn, Protocol

from common.errors import DataLossError, InvalidArgumentError

BLOCK = 512
MAX_EXTENSION_BYTES = 1 << 20
"""Of the pax and long-name headers before one member, together."""
MAX_MEMBERS = 100_000
MAX_NAMES_CHARS = 16 << 20
"""Of all names and of what links mean, which are kept."""
_PAX_DIGITS = 7
_ZERO = bytes(BLOCK)
_FILES, _LINKS = b"\x000" + b"7", b"12"


class Kind(StrEnum):
    """What a member is."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"


class Member(NamedTuple):
    """One header; names have no leading './'."""

    name: str
    kind: Kind
    size: int
    target: str
    """The member that a link means; from the archive's root."""


class Sink(Protocol):
    """Takes the members in their order. Blocks."""

    def begin(self, member: Member) -> None: ...

    def write(self, piece: bytes) -> None:
        """Some bytes of the member that began last, a file."""

    def end(self) -> None:
        """All bytes of that file have come."""


class TarParser:
    """Feeds a sink; every method blocks.

    Raises, from `feed` and `close`:
        DataLossError: the bytes are no tar, or it is cut off.
        InvalidArgumentError: a member that is never to be in it.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._piece = b""
        self._at = 0
        self._ended = False
        self._seen: set[str] = set()
        self._names_left = MAX_NAMES_CHARS
        self._members = 0
        self._work = self._parse()
        next(self._work)

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        if self._ended or not piece:
            return  # what follows the end is padding
        try:
            self._work.send(piece)
        except StopIteration:
            self._ended = True

    def close(self) -> None:
        """No more bytes come."""
        if not self._ended:
            raise DataLossError("archive: it is cut off")

    def _parse(self) -> Generator[None, bytes, None]:
        while True:
            extended: dict[str, str] = {}
            left = MAX_EXTENSION_BYTES
            while True:
                header = yield from self._take(BLOCK)
                if header == _ZERO:
                    return
                _check(header)
                size, kind = _number(header[124:136]), header[156:157]
                if kind not in (b"x", b"g", b"L", b"K"):
                    break
                left -= size + BLOCK
                if left < 0:
                    raise InvalidArgumentError(
                        f"archive: extended headers of more than {MAX_EXTENSION_BYTES} bytes"
                    )
                extended |= yield from self._extension(kind, size)
            yield from self._member(header, kind, extended)

    def _extension(self, kind: bytes, size: int) -> Generator[None, bytes, dict[str, str]]:
        body = yield from self._take(size)
        yield from self._take(-size % BLOCK)
        if kind == b"L":
            return {"path": _text(body)}
        if kind == b"K":
            return {"linkpath": _text(body)}
        return _pax(body) if kind == b"x" else {}

    def _member(self, header: bytes, kind: bytes, extended: dict[str, str]) -> Generator[None, bytes, None]:
        name = extended.get("path") or _name(header)
        stated = extended.get("size", "")
        size = int(stated) if stated.isdecimal() and len(stated) < 19 else _number(header[124:136])
        if any(key.startswith("GNU.sparse.") for key in extended):
            _refuse(name, "is sparse")
        path = inside(name)
        if kind in _FILES and not name.endswith("/"):
            member = Member(path, Kind.FILE, size, "")
        elif kind == b"5" or kind in _FILES:
            member = Member(path, Kind.DIRECTORY, 0, "")
        elif kind in _LINKS:
            where = extended.get("linkpath") or _text(header[157:257])
            base = path.rpartition("/")[0] if kind == b"2" and not where.startswith("/") else ""
            member = Member(path, Kind.LINK, 0, _resolved(name, base, where))
        else:
            _refuse(name, f"has the type {kind!r}, which no image's archive holds")
        self._once(member)
        self._sink.begin(member)
        if member.kind is Kind.FILE:
            left = size
            while left:
                piece = yield from self._some(left)
                left -= len(piece)
                self._sink.write(piece)
            self._sink.end()
            yield from self._take(-size % BLOCK)

    def _once(self, member: Member) -> None:
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise InvalidArgumentError(f"archive: more than {MAX_MEMBERS} members")
        if member.kind is Kind.DIRECTORY:
            return
        if member.name in self._seen:
            _refuse(member.name, "comes twice")
        self._names_left -= len(member.name) + len(member.target)
        if self._names_left < 0:
            raise InvalidArgumentError(f"archive: names of more than {MAX_NAMES_CHARS} characters")
        self._seen.add(member.name)

    def _take(self, count: int) -> Generator[None, bytes, bytes]:
        parts = []
        while count:
            part = yield from self._some(count)
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _some(self, at_most: int) -> Generator[None, bytes, bytes]:
        while self._at == len(self._piece):
            self._piece = yield
            self._at = 0
        part = self._piece[self._at : self._at + at_most]
        self._at += len(part)
        return part


def inside(name: str) -> str:
    """A member's name without './'.

    Raises:
        InvalidArgumentError: it climbs out of the archive.
    """
    if name.startswith("/") or ".." in name.split("/"):
        _refuse(name, "climbs out of the archive")
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _resolved(name: str, base: str, where: str) -> str:
    """What a link means, by names alone."""
    parts: list[str] = [part for part in base.split("/") if part]
    for part in where.split("/"):
        if part == "..":
            if not parts:
                _refuse(name, f"is a link to {where!r}, out of the archive")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if where.startswith("/"):
        _refuse(name, f"is a link to {where!r}, out of the archive")
    return "/".join(parts)


def _check(header: bytes) -> None:
    stated = _number(header[148:156])
    if sum(header[:148]) + 8 * 32 + sum(header[156:]) != stated:
        raise DataLossError("archive: it is no tar, or damaged: a header has a wrong checksum")


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\x00" else name


def _text(field: bytes) -> str:
    return field.split(b"\x00", 1)[0].decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    """An octal number, or one in base 256 (GNU)."""
    if field[0] & 0x80:
        number = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    else:
        digits = field.replace(b"\x00", b" ").strip()
        if digits and not all(48 <= digit < 56 for digit in digits):
            raise DataLossError(f"archive: {digits[:16]!r} is no octal number: it is no tar, or damaged")
        number = int(digits or b"0", 8)
    if number >= 1 << 62:
        raise InvalidArgumentError(f"archive: a member of {number} bytes")
    return number


def _pax(body: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + _PAX_DIGITS + 1)
        length = body[at : max(space, at)]
        end = at + (int(length) if length.isdigit() else 0)
        if not space + 1 < end <= len(body) or body[end - 1 : end] != b"\n":
            raise DataLossError("archive: a pax header is damaged")
        key, _, value = body[space + 1 : end - 1].partition(b"=")
        found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        at = end
    return found


def _refuse(name: str, why: str) -> NoReturn:
    raise InvalidArgumentError(f"archive: member {name[:200]!r} {why}")
