"""The end of a container's log, and what came since. Blocking; reads a bounded part of the file."""

import os
from pathlib import Path
from typing import Any

MAX_BYTES = 256 << 10
MAX_LINES = 2000
MAX_LINE = 4096
"""Characters of a line that are shown."""


def read(path: str, cursor: str, lines: int) -> dict[str, Any]:
    """Lines of a CRI log file.

    Args:
        path: the file.
        cursor: of the last answer, to read on from there; "" for the end of the file.
        lines: at most so many of the last ones.

    Returns:
        `lines` as [time, stream, text, whole] and the `cursor` of what comes next; `skipped` when bytes were left out.
    """
    try:
        with Path(path).open("rb") as file:
            return _read(file, cursor, min(lines, MAX_LINES))
    except FileNotFoundError:
        return {"lines": [], "cursor": "", "skipped": False, "missing": True}


def _read(file: Any, cursor: str, lines: int) -> dict[str, Any]:
    about = os.fstat(file.fileno())
    inode, _, offset = cursor.partition(":")
    start = int(offset) if inode == str(about.st_ino) and offset.isdecimal() else 0
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
        "lines": [_line(record) for record in chosen],
        "cursor": f"{about.st_ino}:{end}",
        "skipped": skipped or len(chosen) < len(records),
        "missing": False,
    }


def _line(record: bytes) -> tuple[str, str, str, bool]:
    parts = record.split(b" ", 3)
    if len(parts) < 4:
        return "", "stdout", record[:MAX_LINE].decode(errors="replace"), True
    at, stream, tag, body = parts
    shown = body[:MAX_LINE].decode(errors="replace")
    return at.decode(errors="replace"), stream.decode(errors="replace"), shown, not tag.startswith(b"P")
