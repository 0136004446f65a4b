"""Documents that are made from the code: written, or with `--check` compared."""

import sys
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"


def keep(name: str, text: str, source: str) -> None:
    """Write docs/`name`, or end with a sentence when it is not what `source` makes now."""
    path = DOCS / name
    if "--check" not in sys.argv:
        path.write_text(text)
    elif not path.exists() or path.read_text() != text:
        sys.exit(f"docs/{name} has drifted from the {source}: run ./dev protos")
