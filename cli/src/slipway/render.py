"""Tables on a terminal, JSON when asked; nothing hostile reaches the terminal."""

import json
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

_UNITS = ("B", "kB", "MB", "GB", "TB")
_AGES = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
COLOURS = {"Running": "green", "Ready": "green", "Created": "cyan", "Exited": "yellow", "NotReady": "yellow"}


def clean(text: object) -> str:
    """Text without control characters, so that a name cannot move the cursor."""
    return "".join(c if unicodedata.category(c)[0] != "C" else "?" for c in str(text))


def sentence(text: str) -> str:
    """An error's message on one line, without control characters."""
    return clean(" ".join(text.split()))


def size(count: int) -> str:
    """Bytes for people, in powers of 1000 as docker's."""
    value = float(count)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{value:.3g} {unit}"
        value /= 1000
    raise AssertionError


def age(at_ns: int) -> str:
    """How long ago."""
    seconds = max(0, int(time.time() - at_ns / 1e9))
    return next((f"{seconds // unit}{name} ago" for unit, name in _AGES if seconds >= unit), "now")


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; coloured states on a terminal, plain columns when piped."""
    cells = [[clean(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(len(r[i]) for r in [list(headings), *cells]) for i in range(len(headings))]
        for row in [list(headings), *cells]:
            sys.stdout.write("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(heading, no_wrap=True)
    for row in cells:
        made.add_row(*(Text(cell, style=COLOURS.get(cell.split(" ")[0], "")) for cell in row))
    Console().print(made)


def document(value: Any) -> None:
    """Print JSON."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def messages(items: Iterable[Any]) -> None:
    """Print protobuf messages as a JSON list."""
    from google.protobuf.json_format import MessageToDict

    document([MessageToDict(item, preserving_proto_field_name=True) for item in items])
