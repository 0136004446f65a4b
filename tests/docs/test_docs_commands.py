"""Every command in the documents is run: by this test, or by the one that its block names."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, blocks
from tests.support.pace import patience

READ_HERE = ("quickstart.md", "operating.md", "dashboard.md", "trust.md")
"""Pages whose blocks are typed, one after the other, into one shell."""
READ_S = patience(120)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", READ_HERE)
def test_a_page_works_when_followed(name: str, tmp_path: Path) -> None:
    apart = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*apart, sys.executable, "-m", "tests.docs.reader", str(ROOT / "docs" / name), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=READ_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_block_says_who_runs_it(page: Path) -> None:
    for block in blocks(page):
        if block.tested_by:
            assert (ROOT / block.tested_by).exists(), f"{page.name}:{block.line}: {block.tested_by}"
        else:
            assert page.name in READ_HERE, f"{page.name}:{block.line}: nothing runs this block"
