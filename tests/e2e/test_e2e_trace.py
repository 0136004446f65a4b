"""`slipway trace`: the life of a container from the spans that the node's opsd holds, or from its events."""

import json
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.node import TestNode
from tests.support.pace import patience

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]


def on_a_terminal(node: TestNode, *arguments: str) -> str:
    slipway = Path(sys.executable).parent / "slipway"
    command = f"stty cols 100; {slipway} --run-dir {node.run_dir} {' '.join(arguments)}"
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_life_is_shown_as_a_waterfall_and_as_events_when_no_span_is_left(
    node: TestNode, busybox: str
) -> None:
    container_id = node.slipway("run", "-d", "--name", "traced", busybox, "sleep", "1000").stdout.strip()

    def names(of: str = "traced") -> list[str]:
        done = node.slipway("trace", "-o", "json", of)
        return (
            [span["name"].rpartition("/")[2] for span in json.loads(done.stdout)["spans"]]
            if done.stdout
            else []
        )

    eventually(lambda: "runtimed.oci.run" in names(), what="the spans of the start")
    drawn = on_a_terminal(node, "trace", "traced")
    assert "runtimed: runtimed.oci.run" in drawn
    assert "━" in drawn

    def the_same_by_the_traces_id() -> bool:
        found = json.loads(node.slipway("trace", "-o", "json", "traced").stdout)
        first = [span for span in found["spans"] if span["trace"] == found["traces"][0]]
        return names(found["traces"][0]) == [span["name"].rpartition("/")[2] for span in first]

    eventually(the_same_by_the_traces_id, what="no span of the start is under way")
    assert node.slipway("rm", "-f", "traced").returncode == 0
    eventually(lambda: "runtimed.container.remove" in names(container_id), what="the spans of its end")
    node.kill("opsd")
    told = eventually(lambda: _events(node, container_id), what="its events")
    assert told[0] == "container.created.v1"
    assert told[-1] == "container.removed.v1"
    assert "container.exited" in on_a_terminal(node, "trace", container_id)


def _events(node: TestNode, container_id: str) -> list[str]:
    done = node.slipway("trace", "-o", "json", container_id)
    if done.returncode != 0 or json.loads(done.stdout)["spans"]:
        return []
    found = [each["event"]["type"] for each in json.loads(done.stdout)["events"]]
    return [kind for kind in found if kind.startswith("container.")]


def test_what_is_not_there_is_said(node: TestNode) -> None:
    for name, told in (
        ("nobody", "no container or pod 'nobody'"),
        (secrets.token_hex(16), "no span"),
        (secrets.token_hex(32), "no span"),
    ):
        done = node.slipway("trace", name)
        assert (done.returncode, told in done.stderr) == (1, True), done.stderr
