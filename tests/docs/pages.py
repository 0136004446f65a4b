"""The shell blocks of a page and the settings on it that a test takes, who runs them, and the words of their commands."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
_FENCE = re.compile(r"^```(?P<language>\w*)(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELLS = ("sh", "bash", "zsh", "shell", "console")
_INFO = re.compile(r"( tested-by=(?P<paths>\S+)( without=(?P<without>\S+))?|(?P<by_hand> by-hand))?")
_WORD = re.compile(r"[a-z][a-z-]*")
_LONG = re.compile(r"--[a-z][a-z-]*")
_INNER = re.compile(r"\$\([^)]*\)")
_ASSIGNED = re.compile(r"\w+=.*", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One ```sh block, or a ```toml one, and what its first line says of who runs it, if it is not the page's own reader."""

    page: Path
    line: int
    text: str
    language: str
    tested_by: tuple[str, ...] = ()
    """The tests that do, and pages whose readers do."""
    without: tuple[str, ...] = ()
    """Programs of others that tests cannot have."""
    by_hand: bool = False
    """It takes machines or hours that CI has not: only its words are looked at."""

    def commands(self) -> list[list[str]]:
        """The words of each, without variables before it and sudo."""
        if self.language != "sh":
            return []
        lines = _INNER.sub("$inner", self.text.replace("\\\n", " ")).splitlines()
        split = [shlex.split(line, comments=True) for line in lines]
        return [bare for words in split if (bare := _bare(words))]


def blocks(page: Path) -> list[Block]:
    """Every block of a page, in order; of settings, those that name a test.

    Raises:
        ValueError: a block is for a shell but not ```sh, or says something else than who tests it after that.
    """
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        language = match["language"]
        if language not in _SHELLS and not (language == "toml" and match["info"]):
            continue
        known = _INFO.fullmatch(match["info"])
        if language not in ("sh", "toml") or not known:
            raise ValueError(
                f"{page.name}:{line}: {match[0].splitlines()[0]} is no ```sh that says who tests it"
            )
        tested_by, without = (
            tuple(filter(None, (known[name] or "").split(","))) for name in ("paths", "without")
        )
        found.append(Block(page, line, match["text"], language, tested_by, without, bool(known["by_hand"])))
    return found


def typed(page: Path) -> list[Block]:
    """Those that a reader of the page types."""
    return [block for block in blocks(page) if not block.tested_by and not block.by_hand]


def required(command: list[str]) -> list[str]:
    """What a test of a command must have: the program, commands below it, and long options.

    Of ./dev only what to do: tests call what it calls, and its options are looked at by themselves.
    """
    program, *rest = command
    below = []
    for word in rest:
        if not _WORD.fullmatch(word):
            break
        below.append(word)
    if program == "./dev":
        return ["dev", *below[:1]]
    options = [found[0] for word in rest if (found := _LONG.match(word))]
    name = program.rpartition("/")[2]
    return [*([] if name == "slipway" else [name]), *below, *options]


def _bare(words: list[str]) -> list[str]:
    while words and (words[0] == "sudo" or _ASSIGNED.fullmatch(words[0])):
        words = words[1:]
    return words
