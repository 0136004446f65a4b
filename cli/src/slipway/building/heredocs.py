"""Heredocs as the word before them wants them: its quotes keep variables, its - takes leading tabs. Pure."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from slipway.building.dockerfile import Instruction
from slipway.building.variables import expand

_WORD = re.compile(r"\d*<<(-?)([^<]+)")
_TABS = re.compile(r"^\t+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Document:
    """The text of a heredoc, without the tabs that it is to lose."""

    name: str
    text: str
    expands: bool

    def expanded(self, values: Mapping[str, str]) -> str:
        """Its text with its variables replaced.

        Raises:
            InvalidArgumentError: one is malformed, or must be set and is not.
        """
        return expand(self.text, values, quotes=False) if self.expands else self.text


def document(step: Instruction, word: str) -> Document | None:
    """The heredoc that a word of an instruction begins; None for any other word."""
    match = _WORD.fullmatch(word)
    if not match:
        return None
    try:
        parts = shlex.split(match[2])
    except ValueError:
        return None
    found = {doc.name: doc.content for doc in step.heredocs}
    if len(parts) != 1 or parts[0] not in found:
        return None
    text = found[parts[0]]
    return Document(parts[0], _TABS.sub("", text) if match[1] else text, expands=parts[0] == match[2])
