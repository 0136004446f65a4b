"""Dockerfiles whose images must be as BuildKit makes them, on a real node."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]


def built(
    node, context: Path, *words: str, stdin: str | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "slipway"), "--run-dir", str(node.run_dir), "build"]
    return subprocess.run(
        [*command, "--network", "host", *words, str(context)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        input=stdin,
        env=os.environ | environment,
    )


def said(node, image: str, *command: str) -> str:
    """What a command in a container of the image prints."""
    return node.slipway("run", "--rm", "--network", "host", image, *command).stdout


HEREDOCS = """
FROM {base}
ARG V=1
ENV NAME="a b"
COPY <<EOF <<"RAW" <<-'TABS' <<-Z /made/
version=$V "$NAME" '${{NONE:-none}}' \\$V \\\\
EOF
version=$V \\
RAW
\t\traw=$V
\tTABS
\tof=$V
\t\tno tab\tbut this
\tZ
RUN <<-Q
\tcat > /made/run <<-IN
\t\tv=$V
\tIN
\tQ
RUN cat > /made/shell <<-"Q"
\tv=$V
\tQ
RUN <<-EOF
\t#!/bin/cat
\tof cat
\tEOF
"""


def test_heredocs_are_expanded_and_lose_tabs_unless_their_word_says_otherwise(
    node, busybox, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(HEREDOCS.format(base=busybox))
    done = built(node, tmp_path, "-t", "heredocs:1")
    assert done.returncode == 0, done.stderr
    files = {
        name: said(node, "heredocs:1", "cat", f"/made/{name}")
        for name in ("EOF", "RAW", "TABS", "Z", "run", "shell")
    }
    assert files == {
        "EOF": "version=1 \"a b\" 'none' $V \\\n",
        "RAW": "version=$V \\\n",
        "TABS": "raw=$V\n",
        "Z": "of=1\nno tab\tbut this\n",
        "run": "v=1\n",
        "shell": "v=$V\n",
    }
    # a script that names its interpreter is run by that
    assert " of cat\n" in done.stderr
    (tmp_path / "Dockerfile").write_text(f"FROM {busybox}\nCOPY Dockerfile <<EOF\nEOF\n")
    assert "Dockerfile:2: COPY: '<<EOF': a heredoc is no target" in built(node, tmp_path).stderr


def test_a_stage_has_the_arguments_of_the_stage_that_it_stands_on(node, busybox, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("one\n")
    (tmp_path / "Dockerfile").write_text(
        f"FROM {busybox} AS base\nARG V=1\nARG FILE=one\nARG GIVEN\n"
        "FROM base AS between\nARG V\n"
        'FROM between\nCOPY $FILE /from\nRUN echo "[$V $GIVEN]" > /v\n'
        f'FROM {busybox} AS other\nRUN echo "[$V]" > /v\n'
    )
    words = ("--target", "2", "--build-arg", "GIVEN=me")
    done = built(node, tmp_path, "-t", "inherits:1", *words)
    assert done.returncode == 0, done.stderr
    assert said(node, "inherits:1", "cat", "/v", "/from") == "[1 me]\none\n"
    assert built(node, tmp_path, "-t", "inherits:2").returncode == 0
    assert said(node, "inherits:2", "cat", "/v") == "[]\n"


def test_a_working_directory_is_its_users(node, busybox, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        f"FROM {busybox} AS base\nENV WHO=12\n"
        "WORKDIR /root/of\nRUN echo 'me:x:7:8::/:/bin/sh' >> /etc/passwd\n"
        "USER $WHO:13\nWORKDIR /ids/deep\nWORKDIR /root/of\n"
        "FROM base\nWORKDIR /inherited\nUSER me\nWORKDIR /named\n"
    )
    done = built(node, tmp_path, "-t", "owned:1")
    assert done.returncode == 0, done.stderr
    paths = ("/root/of", "/ids", "/ids/deep", "/inherited", "/named")
    owners = said(node, "owned:1", "stat", "-c", "%n %u %g", *paths)
    assert owners.splitlines() == [
        *("/root/of 0 0", "/ids 12 13", "/ids/deep 12 13", "/inherited 12 13", "/named 7 8"),
    ]
