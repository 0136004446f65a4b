"""A Dockerfile as stages of instructions; BuildKit's own parser reads it."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import dockerfile

from common.errors import InvalidArgumentError

MAX_BYTES = 1 << 20
WORDS = (
    *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL"),
    *("MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
)
_NO_TRIGGERS = ("FROM", "ONBUILD", "MAINTAINER")
_ALONE = ("CMD", "ENTRYPOINT")
"""Without words they take away what the image below has."""
_STAGE = re.compile(r"[a-z][a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Heredoc:
    """Text that follows an instruction."""

    name: str
    content: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction as it is written; nothing is expanded."""

    word: str
    words: tuple[str, ...]
    text: str
    where: str
    """File and line."""
    flags: tuple[str, ...] = ()
    exact: bool = False
    """In JSON form."""
    heredocs: tuple[Heredoc, ...] = ()

    def refuse(self, why: str) -> NoReturn:
        """Raise an InvalidArgumentError that names file, line and instruction."""
        message = f"{self.where}: {self.word}: {why}"
        raise InvalidArgumentError(message)

    def options(self, *known: str) -> dict[str, list[str]]:
        """Its flags by name, each with its values.

        Raises:
            InvalidArgumentError: one is none of those known.
        """
        found: dict[str, list[str]] = {}
        for flag in self.flags:
            name, _, value = flag[2:].partition("=")
            if name not in known:
                self.refuse(f"--{name} is not known here; known are {', '.join(known) or 'none'}")
            found.setdefault(name, []).append(value)
        return found


@dataclass(slots=True)
class Stage:
    """FROM, and what follows it."""

    start: Instruction
    name: str
    base: str
    steps: list[Instruction] = field(default_factory=list)


def parse(name: str, body: bytes) -> tuple[list[Instruction], list[Stage]]:
    """The ARGs before the first stage, and the stages.

    Args:
        name: of the file, for messages.
        body: what is in it.

    Raises:
        InvalidArgumentError: it is no Dockerfile; the message has file, line and instruction.
    """
    if len(body) > MAX_BYTES:
        message = f"{name}: more than {MAX_BYTES} bytes, which no Dockerfile has"
        raise InvalidArgumentError(message)
    try:
        found = dockerfile.parse_string(body.decode())
    except (ValueError, dockerfile.GoParseError) as exc:
        message = f"{name}: {exc}"
        raise InvalidArgumentError(message) from exc
    return _staged(name, [_instruction(name, command) for command in found])


def triggers(texts: Sequence[str], where: str) -> list[Instruction]:
    """ONBUILD instructions of an image.

    Args:
        texts: as its config has them.
        where: the FROM that takes the image, for messages.

    Raises:
        InvalidArgumentError: one is no instruction that may be there.
    """
    found: list[Instruction] = []
    for text in texts:
        try:
            commands = dockerfile.parse_string(text)
        except (ValueError, dockerfile.GoParseError) as exc:
            message = f"{where}: ONBUILD {text[:200]!r}: {exc}"
            raise InvalidArgumentError(message) from exc
        found += [replace(_instruction("", command), where=f"{where}: ONBUILD") for command in commands]
    for one in found:
        _check(one)
        if one.word in _NO_TRIGGERS:
            one.refuse("may not be in an ONBUILD")
    return found


def _instruction(name: str, command: "dockerfile.Command") -> Instruction:
    return Instruction(
        word=command.cmd.upper(),
        words=tuple(command.value),
        text=command.original.strip(),
        where=f"{name}:{command.start_line}",
        flags=tuple(command.flags),
        exact=command.json,
        heredocs=tuple(Heredoc(doc.name, doc.content) for doc in command.heredocs),
    )


def _staged(name: str, found: Sequence[Instruction]) -> tuple[list[Instruction], list[Stage]]:
    arguments: list[Instruction] = []
    stages: list[Stage] = []
    for one in found:
        _check(one)
        if one.word == "FROM":
            stages.append(_stage(one))
        elif stages:
            stages[-1].steps.append(one)
        elif one.word == "ARG":
            arguments.append(one)
        else:
            one.refuse("comes before the first FROM, where only ARG may be")
    if not stages:
        message = f"{name}: it has no FROM"
        raise InvalidArgumentError(message)
    return arguments, stages


def _check(one: Instruction) -> None:
    """Refuse what is no instruction before anything is done: it may be the last one."""
    if one.word not in WORDS:
        near = difflib.get_close_matches(one.word, WORDS, n=1)
        one.refuse("no such instruction" + (f", perhaps {near[0]}" if near else ""))
    if not one.words and one.word not in _ALONE:
        one.refuse("has nothing after it")


def _stage(one: Instruction) -> Stage:
    named = len(one.words) == 3 and one.words[1].upper() == "AS"
    if len(one.words) != 1 and not named:
        one.refuse("want FROM IMAGE [AS NAME]")
    name = one.words[2].lower() if named else ""
    if name and not _STAGE.fullmatch(name):
        one.refuse(f"{name!r} is no name for a stage")
    return Stage(one, name, one.words[0])
