"""What nobody may see on a page: values of what is named like a secret, and passwords in URLs."""

import re
from collections.abc import Iterable, Mapping

from common.settings import without_secrets

HIDDEN = "•••"
_WORDS = r"passw|passphrase|(?<![a-z])pass(?![a-z])|[_-]pwd|secret|token|credential|api[-_]?key|private[-_]?key|access[-_]?key|auth(?!or(?!iz))"
# Looked for once in each run of a name's characters, and possessive: containers write these texts, and a
# backtracking search takes minutes for one of a few kilobytes.
_NAME = rf"(?<![\w.-])(?=[\w.-]*?(?:{_WORDS}))[\w.-]++"
_SECRET = re.compile(_NAME, re.IGNORECASE)
_PAIR = re.compile(
    rf"(?P<name>{_NAME})(?P<sep>[\"']?+\s*+[=:]\s*+)(?P<value>\"[^\"]*+(?:\"|$)|'[^']*+(?:'|$)|\S++)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)
_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL)


def text(found: str) -> str:
    """A sentence or a command without what follows a secret's name."""
    found = _KEY.sub(HIDDEN, without_secrets(found))
    found = _BEARER.sub(lambda m: f"{m[1]} {HIDDEN}", found)
    return _PAIR.sub(lambda m: f"{m['name']}{m['sep']}{HIDDEN}", found)


def value(name: str, found: str) -> str:
    """One value by its name."""
    return HIDDEN if found and _SECRET.fullmatch(name.rpartition("/")[2]) else text(found)


def table(found: Mapping[str, str]) -> dict[str, str]:
    """Labels and annotations."""
    return {name: value(name, each) for name, each in found.items()}


def words(command: Iterable[str]) -> list[str]:
    """A command line: also the word after an option that is named like a secret."""
    shown: list[str] = []
    hide = False
    for word in command:
        shown.append(HIDDEN if hide else text(word))
        hide = word.startswith("-") and "=" not in word and bool(_SECRET.fullmatch(word.lstrip("-")))
    return shown
