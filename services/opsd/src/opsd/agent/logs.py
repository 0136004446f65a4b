"""The end of a container's log, and what came since. Blocking; reads a bounded part of the file."""

import os
from typing import Any

from common import crilog

MAX_BYTES = 256 << 10
MAX_LINES = 2000
MAX_LINE = 4096
"""Characters of a line that are shown."""
MAX_DIGITS = 20


def read(path: str, cursor: str, lines: int) -> dict[str, Any]:
    """Lines of a CRI log file.

    Args:
        path: the file.
        cursor: of the last answer, to read on from there; "" for the end of the file.
        lines: at most so many of the last ones.

    Returns:
        `lines` as [time, stream, text, whole] and the `cursor` of what comes next; `skipped` when bytes were left out,
        `missing` when there is no such file, or no log in its place.
    """
    try:
        fd = crilog.opened(path)
    except OSError:
        return {"lines": [], "cursor": "", "skipped": False, "missing": True}
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
    skipped = begin > start
    records = list(crilog.records(data, torn=skipped))
    chosen = records[-lines:]
    return {
        "lines": [_line(record) for record in chosen],
        "cursor": f"{about.st_ino}:{end}",
        "skipped": skipped or len(chosen) < len(records),
        "missing": False,
    }


def _line(record: crilog.Record) -> tuple[str, str, str, bool]:
    text = record.text[:MAX_LINE].decode(errors="replace")
    return record.at.decode(), record.stream.decode(), text, record.is_whole
