"""Dockerfiles whose images must be as BuildKit makes them, on a real node."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from devtools.registry import Registry, file, layer
from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]


def built(
    node: TestNode, context: Path, *words: str, stdin: str | None = None, **environment: str
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


def said(node: TestNode, image: str, *command: str) -> str:
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
    node: TestNode, busybox: str, tmp_path: Path
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


def test_a_stage_has_the_arguments_of_the_stage_that_it_stands_on(
    node: TestNode, busybox: str, tmp_path: Path
) -> None:
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


def test_a_working_directory_is_its_users(node: TestNode, busybox: str, tmp_path: Path) -> None:
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


def test_what_a_command_writes_below_a_volume_is_in_the_image(
    node: TestNode, busybox: str, tmp_path: Path
) -> None:
    (tmp_path / "f").write_text("of the context\n")
    (tmp_path / "Dockerfile").write_text(
        f"FROM {busybox}\nVOLUME /data\nCOPY f /data/f\nRUN echo hi > /data/x && chown 7:8 /data/f\n"
        "RUN cat /data/x > /seen\n"
    )
    done = built(node, tmp_path, "-t", "volume:1")
    assert done.returncode == 0, done.stderr
    assert said(node, "volume:1", "cat", "/data/f", "/data/x", "/seen") == "of the context\nhi\nhi\n"
    assert said(node, "volume:1", "stat", "-c", "%u:%g", "/data/f") == "7:8\n"
    (image,) = json.loads(node.slipway("image", "inspect", "volume:1").stdout)
    assert image["Config"]["Volumes"] == {"/data": {}}


def test_capabilities_of_programs_are_copied(node: TestNode, busybox: str, tmp_path: Path) -> None:
    net_raw = bytes.fromhex("0100000200200000000000000000000000000000")  # linux/capability.h: vfs_cap_data
    (tmp_path / "program").write_text("x")
    os.setxattr(tmp_path / "program", "security.capability", net_raw)
    (tmp_path / "Dockerfile").write_text(
        f"FROM {busybox} AS one\nCOPY --chown=7:8 program /program\n"
        f"FROM {busybox}\nCOPY --from=one /program /copied\n"
    )
    done = built(node, tmp_path, "-t", "capable:1")
    assert done.returncode == 0, done.stderr
    saved = tmp_path / "capable.tar"
    assert node.slipway("save", "-o", str(saved), "capable:1").returncode == 0
    found = subprocess.run(["tar", "-xOf", str(saved), "manifest.json"], capture_output=True, check=True)
    top = json.loads(found.stdout)[0]["Layers"][-1]
    body = subprocess.run(["tar", "-xOf", str(saved), top], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        headers = tar.getmember("copied").pax_headers
    assert headers["SCHILY.xattr.security.capability"].encode(errors="surrogateescape") == net_raw
    os.removexattr(tmp_path / "program", "security.capability")
    again = built(node, tmp_path)
    assert "CACHED" not in again.stderr, again.stderr


def test_a_dockerfile_comes_on_standard_input_with_a_context_or_without(
    node: TestNode, busybox: str, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("kept\n")
    (tmp_path / "left").write_text("left\n")
    (tmp_path / ".dockerignore").write_text("left\n")
    (tmp_path / "Dockerfile").write_text("FROM nosuch\n")
    (tmp_path / "Dockerfile.dockerignore").write_text("kept\n")
    text = f"FROM {busybox}\nCOPY . /c\nCMD ls /c\n"
    for context, listed in (
        (tmp_path, {"Dockerfile", "Dockerfile.dockerignore", "kept"}),
        (Path("-"), set()),
    ):
        words = ("-f", "-") if context == tmp_path else ()
        done = built(node, context, *words, "-t", "piped:1", stdin=text)
        assert done.returncode == 0, done.stderr
        assert set(said(node, "piped:1").split()) == listed
    wrong = built(node, Path("-"), stdin=f"FROM {busybox}\nRUN false\n")
    assert "Dockerfile:2: RUN: the command ended with exit code 1" in wrong.stderr


def test_what_is_no_directory_is_told_to_be_no_context(node: TestNode, tmp_path: Path) -> None:
    packed = subprocess.run(
        ["tar", "-c", "-C", str(tmp_path), "."], capture_output=True, check=True, timeout=30
    )
    archive = "-: an archive as context is not offered: unpack it, and give its directory"
    text = packed.stdout.decode()
    assert archive in built(node, Path("-"), stdin=text).stderr
    assert archive in built(node, Path("-"), "-f", "Dockerfile", stdin=text).stderr
    for remote in ("git@git.example:a/b.git", "github.com/a/b"):
        told = f"{remote!r}: a context is a directory here: clone or fetch it first"
        assert told in built(node, Path(remote)).stderr
    assert "No such file or directory" in built(node, tmp_path).stderr


def test_labels_are_the_images_and_of_no_stage_below(node: TestNode, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {busybox} AS base\nLABEL a=1 b=2\nFROM base\nRUN true\n")
    words = ("--label", "b=of the command", "--label", "c", "-t", "labelled:1")
    done = built(node, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    (image,) = json.loads(node.slipway("image", "inspect", "labelled:1").stdout)
    assert image["Config"]["Labels"] == {"a": "1", "b": "of the command", "c": ""}
    again = built(node, tmp_path, *words[:2])
    assert again.stderr.count("CACHED") == 1, again.stderr
    assert "--label '=x': want NAME" in built(node, tmp_path, "--label", "=x").stderr


def test_pull_asks_registries_for_what_is_here(
    node: TestNode, shop: Registry, busybox: str, tmp_path: Path
) -> None:
    name = shop.push("buildkit/moves", [layer([file("which", b"old")])], {})
    (tmp_path / "Dockerfile").write_text(f"FROM {busybox}\nCOPY --from={name} /which /\nCMD cat /which\n")
    assert built(node, tmp_path, "-t", "pulls:1").returncode == 0
    assert shop.push("buildkit/moves", [layer([file("which", b"new")])], {}) == name
    found = []
    for words in ((), ("--pull",)):
        done = built(node, tmp_path, *words, "-t", "pulls:1")
        assert done.returncode == 0, done.stderr
        found.append(said(node, "pulls:1"))
    assert found == ["old", "new"]
    assert node.slipway("tag", busybox, "only.example/here:1").returncode == 0
    (tmp_path / "Dockerfile").write_text("FROM only.example/here:1\n")
    assert "Dockerfile:1: FROM: " in built(node, tmp_path, "--pull").stderr
    assert node.slipway("untag", "only.example/here:1").returncode == 0
