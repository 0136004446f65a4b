"""A CRI log as its readers see it: which file is one, its records, and the lines that they make.

A record is `TIME STREAM TAG TEXT` and a newline. The tag P says that the line goes on in the next record of its stream,
F that it ends here. A pod may be able to write where its log is: what has not this form is left out.
"""

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_RECORD = re.compile(
    rb"^(\d{4}-\d\d-\d\dT[\d:.]{8,18}(?:Z|[+-]\d\d:\d\d)) (stdout|stderr) ([PF])(?::[^ \n]*)? ([^\n]*)\n",
    re.MULTILINE,
)


class Record(NamedTuple):
    """One record, or a line put together from several."""

    at: bytes
    """When it was written, in RFC 3339."""
    stream: bytes
    tag: bytes
    """P or F."""
    text: bytes

    @property
    def is_whole(self) -> bool:
        """The line ends here."""
        return self.tag == b"F"

    @property
    def output(self) -> bytes:
        """The container's own bytes: the newline behind a piece of a line is the file's."""
        return self.text + b"\n" if self.tag == b"F" else self.text


def opened(path: str) -> int:
    """A descriptor of the log at a path, to read from.

    Raises:
        OSError: with the path; it is not there, or a link, a pipe or else no regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no regular file", path)
    return fd


def records(part: bytes, *, torn: bool = False) -> Iterator[Record]:
    """The whole records in a part of a log; `torn` when it may begin within one."""
    begin = part.find(b"\n") + 1 if torn else 0
    return map(Record._make, _RECORD.findall(part, begin))


def lines(found: Iterable[Record]) -> Iterator[Record]:
    """Records with the pieces of each line put together, where it ends; what has no end comes last."""
    begun: dict[bytes, list[Record]] = {}
    for record in found:
        pieces = begun.setdefault(record.stream, [])
        pieces.append(record)
        if record.is_whole:
            yield _joined(begun.pop(record.stream))
    yield from map(_joined, begun.values())


def _joined(pieces: list[Record]) -> Record:
    return pieces[-1]._replace(at=pieces[0].at, text=b"".join(piece.text for piece in pieces))
