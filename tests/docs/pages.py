"""The shell blocks of a page and the settings on it that a test takes, and who runs them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
_BLOCK = re.compile(r"^```(?P<kind>sh|toml)(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_TESTED_BY = re.compile(r" tested-by=(?P<path>\S+)")


@dataclass(frozen=True)
class Block:
    """One ```sh block, or a ```toml one; `tested_by` is the test that runs it, if it is not the page's own."""

    page: Path
    line: int
    text: str
    tested_by: str


def blocks(page: Path) -> list[Block]:
    """Every block of a page, in order; of settings, those that name a test.

    Raises:
        ValueError: a block says something else than `tested-by=PATH` after its language.
    """
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        known = _TESTED_BY.fullmatch(match["info"])
        if match["info"] and not known:
            raise ValueError(f"{page.name}:{line}: {match['info']!r} is no tested-by=PATH")
        if match["kind"] == "toml" and not known:
            continue
        found.append(Block(page, line, match["text"], known["path"] if known else ""))
    return found
