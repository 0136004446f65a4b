"""What the command says when something goes wrong: by the names that a person used."""

import json
import re
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]
_ID = re.compile(r"[0-9a-f]{64}")


@pytest.fixture
def still(node: TestNode, busybox: str) -> Iterator[str]:
    """A container that is paused."""
    assert node.slipway("run", "-d", "--name", "still", busybox, "sleep", "1000").returncode == 0
    assert node.slipway("pause", "still").returncode == 0
    yield "still"
    assert node.slipway("rm", "-f", "still").returncode == 0


@pytest.mark.parametrize("words", [["exec", "still", "ls"], ["pause", "still"]])
def test_an_error_names_a_container_as_the_person_did(node: TestNode, still: str, words: list[str]) -> None:
    done = node.slipway(*words)
    assert done.returncode != 0
    assert done.stderr.startswith("slipway: container still: is paused, not running")


def test_a_failed_start_names_the_container_that_was_to_run(node: TestNode, busybox: str) -> None:
    done = node.slipway("run", "--name", "wrong", busybox, "/no/such")
    ended = [node.slipway(verb, "wrong") for verb in ("kill", "unpause", "start")]
    assert node.slipway("rm", "-f", "wrong").returncode == 0
    for each in (done, *ended):
        assert each.returncode != 0
        assert "wrong" in each.stderr
        assert not _ID.search(each.stderr), each.stderr


def test_cp_names_the_place_that_takes_no_file(node: TestNode, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").write_text("old")
    for name in ("new", "old"):
        (tmp_path / name).write_text("new")
    mount = f"{tmp_path}/data:/data:ro"
    assert node.slipway("run", "-d", "--name", "low", "-v", mount, busybox, "sleep", "1000").returncode == 0
    told = [node.slipway("cp", str(tmp_path / name), "low:/data/") for name in ("new", "old")]
    assert node.slipway("rm", "-f", "low").returncode == 0
    assert [(done.returncode, done.stderr) for done in told] == [
        (1, f"slipway: low:/data/{name}: Read-only file system\n") for name in ("new", "old")
    ]


def test_a_login_at_a_registry_that_is_away_speaks_of_no_image(node: TestNode) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = node.slipway("login", "-u", "me", "--password-stdin", address, stdin="word\n")
    assert done.returncode == 1
    assert "image" not in done.stderr
    assert f"registry {address}" in done.stderr


def test_events_have_a_date_and_whole_names_and_begin_at_a_time(node: TestNode, busybox: str) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    assert node.slipway("pull", busybox).returncode == 0
    told = node.slipway("events", "--since", since, "--until-now", "--filter", "kind=image").stdout
    started = next(line for line in told.splitlines() if "image.pull_started" in line)
    at, kind, name = started.split()[:3]
    assert (kind, name) == ("image.pull_started", busybox)
    assert datetime.fromisoformat(at) >= datetime.fromisoformat(since)
    later = datetime.fromtimestamp(time.time() + 3600, UTC).isoformat()
    assert node.slipway("events", "--since", later, "--until-now").stdout == ""


def test_a_commit_refuses_a_name_before_it_holds_the_container_still(node: TestNode, busybox: str) -> None:
    assert node.slipway("run", "-d", "--name", "live", busybox, "sleep", "1000").returncode == 0
    told = [
        node.slipway("commit", "live", "Bad"),
        node.slipway("commit", "-c", "WALK on", "live", "good"),
    ]
    seen = node.slipway("events", "--until-now", "-o", "json", "--filter", "id=live").stdout
    assert node.slipway("rm", "-f", "live").returncode == 0
    assert [
        (done.returncode, word in done.stderr) for done, word in zip(told, ("Bad", "WALK"), strict=True)
    ] == [
        (1, True),
        (1, True),
    ]
    verbs = [json.loads(line)["event"]["type"].split(".")[1] for line in seen.splitlines()]
    assert "started" in verbs
    assert "paused" not in verbs


@pytest.mark.parametrize(
    ("words", "known"),
    [
        (["ps", "-f", "status=foo"], "created, running, paused, exited"),
        (["ps", "-f", "origin=foo"], "cri, command"),
        (["images", "-f", "dangling=perhaps"], "true, false"),
    ],
)
def test_a_filter_of_a_value_that_nothing_can_have_is_refused(
    node: TestNode, words: list[str], known: str
) -> None:
    done = node.slipway(*words)
    assert (done.returncode, known in done.stderr) == (1, True), done.stderr


def test_states_that_only_docker_has_are_no_mistake(node: TestNode) -> None:
    done = node.slipway("ps", "-aq", "-f", "status=dead", "-f", "status=removing", "-f", "status=restarting")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
