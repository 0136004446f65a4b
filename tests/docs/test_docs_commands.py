"""Every command in the documents is run: by this test, or by those that its block names."""

import argparse
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import bench.report
import torture.main
from devtools import guest
from slipway import parser
from tests.docs.pages import PAGES, ROOT, blocks, required, typed
from tests.support.pace import patience

READ_HERE = ("quickstart.md", "operating.md", "dashboard.md", "trust.md", "peers.md")
"""Pages whose blocks are typed, one after the other, into one shell."""
READ_S = patience(120)
OPTIONS = {"bench": bench.report.parser, "torture": torture.main.parser, "guest": guest.parser}
"""Of what ./dev runs."""
KINDS = (".py", ".sh", "")


@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", READ_HERE)
def test_a_page_works_when_followed(name: str, tmp_path: Path) -> None:
    apart = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*apart, sys.executable, "-m", "tests.docs.reader", str(ROOT / "docs" / name), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=READ_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_block_says_who_runs_it(page: Path) -> None:
    if page.name not in READ_HERE:
        assert typed(page) == [], "nothing runs these blocks"
    for block in blocks(page):
        text = "\n".join(_words_of(ROOT / path) for path in block.tested_by)
        commands = [words for words in block.commands() if block.tested_by and words[0] not in block.without]
        for words in commands:
            missing = [
                word
                for word in required(words)
                if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)
            ]
            assert missing == [], f"{page.name}:{block.line}: {block.tested_by} have not all of {words}"


@cache
def _words_of(path: Path) -> str:
    if path.suffix == ".md":
        assert path.name in READ_HERE, path
        return "\n".join(block.text for block in typed(path))
    files = (
        [path]
        if path.is_file()
        else [each for each in path.rglob("*") if each.suffix in KINDS and each.is_file()]
    )
    return "\n".join(each.read_text() for each in files)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_of_ours_has_the_words_that_a_page_gives_it(page: Path) -> None:
    known = (ROOT / "dev").read_text()
    for program, *words in (words for block in blocks(page) for words in block.commands()):
        if program.rpartition("/")[2] == "slipway":
            ended = [word in ("|", ">", "<", "&", "&&", "||", "2>&1") for word in words]
            ours = words[: ended.index(True)] if True in ended else words
            parser.build(ours).parse_args(ours)
        if program == "./dev":
            assert re.search(rf"^  (.* \| )?{words[0]}( \| .*)?\)", known, re.MULTILINE), words
            OPTIONS.get(words[0], argparse.ArgumentParser)().parse_known_args(words[1:])
