"""Tables on a terminal, JSON when asked; nothing hostile reaches the terminal."""

import os
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from common.buildcache import given
from common.errors import SlipwayError
from slipway.output import nicknames

_UNITS = ("B", "kB", "MB", "GB", "TB")
_AGES = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_SPANS = (
    *((365 * 86400, "year"), (30 * 86400, "month"), (7 * 86400, "week")),
    *((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")),
)
_GREEN, _YELLOW, _CYAN, _BOLD = "\033[32m", "\033[33m", "\033[36m", "\033[1m"
PLAIN = "\033[0m"
_STYLES = {"green": _GREEN, "yellow": _YELLOW, "red": "\033[31m", "cyan": _CYAN, "bold": _BOLD}
COLOURS = {
    "Running": _GREEN,
    "Ready": _GREEN,
    "Created": _CYAN,
    "Paused": _CYAN,
    "Exited": _YELLOW,
    "NotReady": _YELLOW,
}


def clean(text: object) -> str:
    """Text without control characters and line breaks, so that a name cannot move the cursor."""
    plain = str(text)
    if plain.isascii() and plain.isprintable():
        return plain
    return "".join("?" if _moves(c) else c for c in plain)


def _moves(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def sentence(text: str) -> str:
    """An error's message on one line, without control characters."""
    return clean(" ".join(text.split()))


def complaint(error: SlipwayError) -> str:
    """What went wrong, with containers and pods called as the person did."""
    return sentence(nicknames.in_words(error.message))


def names(found: Iterable[str]) -> list[str]:
    """What an image is called in a list: by all its tags, else by its digests; by a build's only if nobody gave it one."""
    every = list(found)
    tags = [name for name in every if "@" not in name]
    return given(tags) or tags or every or ["<none>"]


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


def span(from_ns: int, to_ns: int) -> str:
    """How long, in words as docker's."""
    seconds = max(0, (to_ns - from_ns) // 10**9)
    for unit, name in _SPANS:
        count = seconds // unit
        if count > 1:
            return f"{count} {name}s"
        if count:
            return f"{'an' if name == 'hour' else 1 if name == 'second' else 'a'} {name}"
    return "less than a second"


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; on a terminal the headings are bold and states coloured."""
    cells = [list(headings), *([clean(cell) for cell in row] for row in rows)]
    widths = [max(_width(row[i]) for row in cells) for i in range(len(headings))]
    colours = coloured()
    for number, row in enumerate(cells):
        padded = [
            _cell(text, width, bold=not number, colours=colours)
            for text, width in zip(row, widths, strict=True)
        ]
        sys.stdout.write("  ".join(padded).rstrip() + "\n")


def coloured() -> bool:
    """Whether our output may have colours: a terminal, and nobody who wants none."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")  # noqa: TID251 - https://no-color.org


def styled(text: str, style: str) -> str:
    """Text in a colour or bold, where that is shown."""
    return f"{_STYLES[style]}{text}{PLAIN}" if coloured() else text


def _cell(text: str, width: int, *, bold: bool, colours: bool) -> str:
    padding = " " * (width - _width(text))
    look = _BOLD if bold else COLOURS.get(text.partition(" ")[0], "")
    return f"{look}{text}{PLAIN}{padding}" if look and colours else text + padding


def _width(text: str) -> int:
    """The columns it takes on a terminal."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in ("W", "F") for c in text)
    return len(text) + wide - sum(bool(unicodedata.combining(c)) for c in text)


def document(value: Any) -> None:
    """Print JSON; all that is not ASCII is escaped, and so harmless."""
    import json

    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def messages(items: Iterable[Any]) -> None:
    """Print protobuf messages as a JSON list."""
    document([fields(item) for item in items])


def fields(message: Any) -> dict[str, Any]:
    """A protobuf message whole, its zeros too: CREATED, READY and an exit code of 0 are some."""
    from google.protobuf.json_format import MessageToDict

    found: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found
