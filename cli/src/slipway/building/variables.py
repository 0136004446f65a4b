"""Variables in instructions, expanded as BuildKit expands them. Pure."""

import re
from collections.abc import Mapping

from common.errors import InvalidArgumentError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def expand(text: str, values: Mapping[str, str], *, quotes: bool = True) -> str:
    """A word with its variables replaced and its quotes taken off.

    Args:
        text: the word.
        values: what variables mean.
        quotes: False where they are characters as any: in a heredoc.

    Raises:
        InvalidArgumentError: it is malformed, or a variable that must be set is not.
    """
    out, quote, at = "", "", 0
    while at < len(text):
        char = text[at]
        if char == "\\" and quote != "'" and at + 1 < len(text):
            keep = quote and text[at + 1] not in '"\\$'
            out += text[at : at + 2] if keep else text[at + 1]
            at += 2
        elif quotes and char in "'\"" and quote in ("", char):
            quote = "" if quote else char
            at += 1
        elif char == "$" and quote != "'":
            value, at = _variable(text, at, values, quotes=quotes)
            out += value
        else:
            out += char
            at += 1
    if quote:
        message = f"{text!r}: a {quote} is not closed"
        raise InvalidArgumentError(message)
    return out


def _variable(text: str, at: int, values: Mapping[str, str], *, quotes: bool) -> tuple[str, int]:
    """The value at a dollar sign, and where the text goes on."""
    if text[at + 1 : at + 2] != "{":
        match = _NAME.match(text, at + 1)
        return (values.get(match[0], ""), match.end()) if match else ("$", at + 1)
    end = _closing(text, at + 2)
    match = _NAME.match(text, at + 2, end)
    if not match:
        message = f"{text!r}: {text[at : end + 1]!r} names no variable"
        raise InvalidArgumentError(message)
    return _modified(text, match[0], text[match.end() : end], values, quotes=quotes), end + 1


def _modified(text: str, name: str, rest: str, values: Mapping[str, str], *, quotes: bool) -> str:
    value = values.get(name)
    colon = rest.startswith(":")
    kind, word = rest[colon : colon + 1], rest[colon + 1 :]
    is_set = bool(value) if colon else value is not None
    if not rest:
        return value or ""
    if kind == "-":
        return (value or "") if is_set else expand(word, values, quotes=quotes)
    if kind == "+":
        return expand(word, values, quotes=quotes) if is_set else ""
    if kind == "?" and is_set:
        return value or ""
    if kind == "?":
        message = f"{name}: {expand(word, values, quotes=quotes) or 'is not set'}"
        raise InvalidArgumentError(message)
    message = f"{text!r}: {rest!r} after a variable is none of :-, -, :+, +, :?, ?"
    raise InvalidArgumentError(message)


def _closing(text: str, at: int) -> int:
    depth = 1
    for place in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return place
    message = f"{text!r}: a {{ is not closed"
    raise InvalidArgumentError(message)
