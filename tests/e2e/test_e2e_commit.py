"""What a container changed, by the slipway command: listed, made an image that runs, the same image each time."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]
WRITES = (
    "echo hi > /etc/motd; rm /etc/group; mkdir /srv; ln -s /etc/motd /srv/l; touch /srv/ready; sleep 1000"
)


@pytest.fixture
def writer(node: TestNode, busybox: str) -> Iterator[str]:
    """A container that has written, and runs on."""
    assert node.slipway("pull", busybox).returncode == 0
    started = node.slipway("run", "-d", "--name", "writer", "--network", "host", busybox, "sh", "-c", WRITES)
    assert started.returncode == 0, started.stderr
    wait = "until [ -e /srv/ready ]; do sleep 0.05; done"
    assert node.slipway("exec", "writer", "sh", "-c", wait).returncode == 0
    yield "writer"
    node.slipway("pods", "rm", "-f", "writer")
    for image in json.loads(node.slipway("images", "-o", "json").stdout):
        node.slipway("rmi", "-f", image["id"])


def committed(node: TestNode, *words: str, **environment: str) -> str:
    command = [str(Path(sys.executable).parent / "slipway"), "--run-dir", str(node.run_dir), "commit", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_changes_are_listed_without_what_the_runtime_made(node: TestNode, writer: str) -> None:
    listed = node.slipway("diff", writer)
    expected = ["C /etc", "D /etc/group", "A /etc/motd", "A /srv", "A /srv/l", "A /srv/ready"]
    assert (listed.returncode, listed.stdout.splitlines()) == (0, expected), listed.stderr
    as_json = json.loads(node.slipway("diff", "-o", "json", writer).stdout)
    assert as_json[0] == {"path": "/etc", "kind": "C"}


def test_a_commit_runs_with_what_was_written_and_said(node: TestNode, writer: str, tmp_path: Path) -> None:
    words = ("-a", "me", "-m", "patched", "-c", 'CMD ["cat", "/srv/l"]', "-c", "ENV NOTE=x", writer, "mine:2")
    image = committed(node, *words)
    facts = json.loads(node.slipway("image", "inspect", "mine:2").stdout)[0]
    assert (facts["Id"], facts["Author"]) == (image, "me")
    assert facts["Config"]["Cmd"] == ["cat", "/srv/l"]
    assert "NOTE=x" in facts["Config"]["Env"]
    steps = json.loads(node.slipway("history", "-o", "json", "mine:2").stdout)
    assert (steps[0]["comment"], steps[0]["size_bytes"] > 0) == ("patched", True)
    ran = node.slipway("run", "--rm", "--network", "host", "mine:2")
    assert (ran.returncode, ran.stdout) == (0, "hi\n"), ran.stderr
    gone = node.slipway("run", "--rm", "--network", "host", "mine:2", "ls", "/etc/group")
    assert gone.returncode == 1
    # it still runs, and was not left paused
    assert node.slipway("exec", writer, "true").returncode == 0
    saved = tmp_path / "mine.tar"
    assert node.slipway("save", "-o", str(saved), "mine:2").returncode == 0
    read = subprocess.run(
        ["skopeo", "inspect", "--config", f"oci-archive:{saved}"], capture_output=True, text=True, check=True
    )
    assert json.loads(read.stdout)["config"]["Cmd"] == ["cat", "/srv/l"]


def test_a_container_stands_still_while_it_is_read_only(node: TestNode, writer: str) -> None:
    fill = "dd if=/dev/urandom of=/big bs=1M count=40"
    assert node.slipway("exec", writer, "sh", "-c", fill).returncode == 0
    image = committed(node, writer, "big:1")
    told = node.slipway("events", "--until-now", "-o", "json").stdout.splitlines()
    verbs = [
        (event["event"]["type"], event["at_ns"])
        for event in map(json.loads, told)
        if event["event"]["type"].startswith(("container.paused", "container.resumed", "image.committed"))
    ]
    kinds = [kind for kind, _ in verbs][-3:]
    assert kinds == ["container.paused.v1", "container.resumed.v1", "image.committed.v1"], verbs
    assert node.slipway("exec", writer, "true").returncode == 0
    ran = node.slipway("run", "--rm", "--network", "host", image, "stat", "-c", "%s", "/big")
    assert ran.stdout == f"{40 << 20}\n"


def test_the_same_container_at_the_same_time_is_the_same_image(node: TestNode, writer: str) -> None:
    first = committed(node, writer, SOURCE_DATE_EPOCH="1700000000")
    assert committed(node, writer, "again:1", SOURCE_DATE_EPOCH="1700000000") == first
    assert json.loads(node.slipway("image", "inspect", first).stdout)[0]["Created"] == "2023-11-14T22:13:20Z"
    assert committed(node, "-m", "other", writer, SOURCE_DATE_EPOCH="1700000000") != first


def test_a_commit_of_an_ended_container_and_one_upon_it(node: TestNode, busybox: str) -> None:
    assert node.slipway("pull", busybox).returncode == 0
    try:
        done = node.slipway(
            "run", "--name", "once", "--network", "host", busybox, "sh", "-c", "echo 1 > /one"
        )
        assert done.returncode == 0, done.stderr
        committed(node, "once", "step:1")
        two = node.slipway(
            "run", "--name", "twice", "--network", "host", "step:1", "sh", "-c", "cat /one > /two"
        )
        assert two.returncode == 0, two.stderr
        committed(node, "twice", "step:2")
        ran = node.slipway("run", "--rm", "--network", "host", "step:2", "cat", "/one", "/two")
        assert ran.stdout == "1\n1\n"
    finally:
        for name in ("once", "twice"):
            node.slipway("pods", "rm", "-f", name)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nosuch", "x"), "no container 'nosuch'"),
        (("-c", "RUN x", "writer", "x"), "RUN x"),
        (("writer", "UPPER:1"), "lowercase"),
    ],
)
def test_a_commit_that_cannot_be_leaves_nothing(
    node: TestNode, writer: str, words: tuple[str, ...], told: str
) -> None:
    before = node.slipway("images", "-o", "json").stdout
    done = node.slipway("commit", *words)
    assert (done.returncode, told in done.stderr) == (1, True), done.stderr
    assert node.slipway("images", "-o", "json").stdout == before
    assert node.slipway("exec", writer, "true").returncode == 0
    assert list((node.data_dir / "imaged" / "ingest").iterdir()) == []
