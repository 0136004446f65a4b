"""What a person called containers and pods, for the errors of services, which name them by id."""

import re

_ID = re.compile(r"(?<![\w./-])[0-9a-f]{64}(?![\w./-])")
"""One that stands for itself, and is no part of a path."""
_words: dict[str, str] = {}


def remember(object_id: str, word: str) -> None:
    """From now on errors call it so."""
    _words[object_id] = word


def in_words(text: str) -> str:
    """A text with what a person said in place of ids."""
    return _ID.sub(lambda found: _words.get(found[0], found[0]), text)
