"""The end of a container's log, and what came since. Blocking; reads a bounded part of the file."""

import os
import re
import stat
from typing import Any

MAX_BYTES = 256 << 10
MAX_LINES = 2000
MAX_LINE = 4096
"""Characters of a line that are shown."""
MAX_DIGITS = 20
_FORM = re.compile(
    rb"(\d{4}-\d\d-\d\dT[\d:.]{8,18}(?:Z|[+-]\d\d:\d\d)) (stdout|stderr) ([PF]) (.*)", re.DOTALL
)


def read(path: str, cursor: str, lines: int) -> dict[str, Any]:
    """Lines of a CRI log file.

    Args:
        path: the file.
        cursor: of the last answer, to read on from there; "" for the end of the file.
        lines: at most so many of the last ones.

    Returns:
        `lines` as [time, stream, text, whole] and the `cursor` of what comes next; `skipped` when bytes were left out,
        `missing` when there is no such file.

    A pod may be able to write where its log is: a link or a pipe in its place is no log, and only what has the form
    of a log's line is shown.
    """
    nothing = {"lines": [], "cursor": "", "skipped": False, "missing": True}
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return nothing
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return nothing
    with os.fdopen(fd, "rb") as file:
        return _read(file, cursor, min(lines, MAX_LINES))


def _read(file: Any, cursor: str, lines: int) -> dict[str, Any]:
    about = os.fstat(file.fileno())
    inode, _, offset = cursor.partition(":")
    known = inode == str(about.st_ino) and offset.isdecimal() and len(offset) < MAX_DIGITS
    start = int(offset) if known else 0
    if start > about.st_size:
        start = 0
    begin = max(start, about.st_size - MAX_BYTES)
    file.seek(begin)
    data = file.read(MAX_BYTES)
    end = begin + data.rfind(b"\n") + 1  # a torn line is read when it is whole
    records = data[: end - begin].split(b"\n")[:-1]
    skipped = begin > start
    if skipped:
        records = records[1:]
    chosen = records[-lines:]
    return {
        "lines": [_line(match) for record in chosen if (match := _FORM.fullmatch(record))],
        "cursor": f"{about.st_ino}:{end}",
        "skipped": skipped or len(chosen) < len(records),
        "missing": False,
    }


def _line(match: re.Match[bytes]) -> tuple[str, str, str, bool]:
    at, stream, tag, body = match.groups()
    return at.decode(), stream.decode(), body[:MAX_LINE].decode(errors="replace"), tag == b"F"
