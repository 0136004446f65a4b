"""What a .dockerignore leaves out, by Docker's rules: the last pattern that matches decides. Pure."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from common.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True)
class Ignore:
    """Patterns, each with whether it brings back what one before left out."""

    rules: tuple[tuple[re.Pattern[str], bool], ...] = ()

    def leaves_out(self, path: str) -> bool:
        """Whether a path below the context is left out, by itself or with a directory that it is in."""
        parts = PurePosixPath(path).parts
        places = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        out = False
        for pattern, brings_back in self.rules:
            if any(pattern.fullmatch(place) for place in places):
                out = not brings_back
        return out


def parse(name: str, body: bytes) -> Ignore:
    """The rules of a file.

    Raises:
        InvalidArgumentError: it is no text, or a pattern is none; the message has file and line.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line_number = body.count(b"\n", 0, exc.start) + 1
        raise InvalidArgumentError(f"{name}:{line_number}: is no UTF-8") from exc
    rules = []
    for number, line in enumerate(text.splitlines(), 1):
        pattern = line.strip()
        if not pattern or line.startswith("#"):
            continue
        brings_back = pattern.startswith("!")
        parts = [part for part in pattern.removeprefix("!").strip().split("/") if part not in ("", ".")]
        if not parts:
            continue
        try:
            rules.append((re.compile(_expression("/".join(parts)), re.DOTALL), brings_back))
        except re.error as exc:
            raise InvalidArgumentError(f"{name}:{number}: {pattern!r} is no pattern: {exc.msg}") from exc
    return Ignore(tuple(rules))


def _expression(pattern: str) -> str:
    out, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
        elif pattern.startswith("**", at):
            out, at = out + ".*", at + 2
        elif pattern[at] == "*":
            out, at = out + "[^/]*", at + 1
        elif pattern[at] == "?":
            out, at = out + "[^/]", at + 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            inner = pattern[at + 1 : end]
            negated = "^" if inner[0] in "^!" else ""
            out += f"[{negated}{re.escape(inner[len(negated) :]).replace(chr(92) + '-', '-')}]"
            at = end + 1
        elif pattern[at] == "\\" and at + 1 < len(pattern):
            out, at = out + re.escape(pattern[at + 1]), at + 2
        else:
            out, at = out + re.escape(pattern[at]), at + 1
    return out
