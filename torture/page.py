"""docs/reliability.md: what is between its marks are figures, kept in reliability.json beside it and written part by part.

A part that was run keeps its own figures there, with the commit and the day; those of the other parts stay.
"""

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
PAGE, KEPT = DOCS / "reliability.md", DOCS / "reliability.json"
TITLES = {
    "churn": "kills at random moments",
    "soak": "the same for long",
    "matrix": "the kill matrix",
    "density": "many pods",
    "upgrade": "an upgrade under load",
    "power": "power cuts",
    "inputs": "bad inputs",
}
"""The parts, in the order of the page."""
TOLD = 10
"""Losses that are written out."""
_BLOCK = re.compile(
    r"(?P<begin><!-- figures of (?P<part>\w+) -->\n).*?(?P<end><!-- end of figures -->)", re.DOTALL
)


@dataclass(frozen=True)
class Table:
    """Cells as they are shown."""

    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        rows = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


@dataclass(frozen=True, kw_only=True)
class Section:
    """What one part has found."""

    ran: str
    """What was done, in one sentence."""
    faults: int
    """Made on purpose; of the bad inputs, how many were tried."""
    survived: int
    worst_s: float = 0.0
    """The longest that the node took to recover; 0 where nothing was to recover."""
    lost: list[str] = field(default_factory=list)
    """What was lost or untrue, one sentence each."""
    tables: list[Table] = field(default_factory=list)
    commit: str = ""
    day: str = ""

    def markdown(self) -> str:
        """As on the page and on the terminal."""
        of = f" At {self.commit}, {self.day}." if self.commit else ""
        blocks = [f"{self.ran}{of} Lost or untrue: **{len(self.lost)}**."]
        if self.lost:
            blocks.append("\n".join(f"- {one}" for one in self.lost[:TOLD]))
        return "\n\n".join([*blocks, *(table.markdown() for table in self.tables)]) + "\n"


def read(kept: Path = KEPT) -> dict[str, Section]:
    """The figures of every part that was run and written."""
    found = {}
    for part, fields in json.loads(kept.read_text()).items():
        tables = [Table(**table) for table in fields.pop("tables")]
        found[part] = Section(tables=tables, **fields)
    return found


def write(sections: Mapping[str, Section], page: Path = PAGE, kept: Path = KEPT) -> None:
    """Put figures of today in the place of those that their parts had, and render the page anew."""
    of = {"commit": commit(), "day": f"{datetime.now(UTC):%Y-%m-%d}"}
    known = {part: asdict(section) for part, section in read(kept).items()}
    known |= {part: asdict(section) | of for part, section in sections.items()}
    kept.write_text(json.dumps({part: known[part] for part in TITLES if part in known}, indent=1) + "\n")
    page.write_text(rendered(page.read_text(), read(kept)))


def rendered(text: str, sections: Mapping[str, Section]) -> str:
    """The page with these figures between its marks."""

    def block(match: "re.Match[str]") -> str:
        part = match["part"]
        shown = _overview(sections) if part == "all" else _shown(part, sections.get(part))
        return f"{match['begin']}{shown}{match['end']}"

    return _BLOCK.sub(block, text)


def _shown(part: str, section: Section | None) -> str:
    return section.markdown() if section else f"No run of {TITLES[part]} is written down yet.\n"


def _overview(sections: Mapping[str, Section]) -> str:
    rows = []
    for part, title in TITLES.items():
        if found := sections.get(part):
            worst = f"{found.worst_s:.1f}" if found.worst_s else ""
            counts = [str(number) for number in (found.faults, found.survived, len(found.lost))]
            rows.append([title, *counts, worst, found.commit, found.day])
        else:
            rows.append([title, *[""] * 5, "no run is written down"])
    head = ["Part", "faults", "survived", "lost or untrue", "longest recovery, s", "commit", "day"]
    return Table(head, rows).markdown() + "\n"


def commit(docs: Path = DOCS) -> str:
    """The commit that is checked out, and whether files are changed but for the page and its figures."""

    def git(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["git", *words], cwd=docs, capture_output=True, text=True, check=False)

    found = git("rev-parse", "--short", "HEAD").stdout.strip()
    own = f":(exclude){PAGE.name}", f":(exclude){KEPT.name}"
    changed = git("diff", "--quiet", "HEAD", "--", ":/", *own).returncode
    return found + (", changed" if changed else "") if found else "no commit"
