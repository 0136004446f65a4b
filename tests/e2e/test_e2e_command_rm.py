"""`slipway run --rm`: runtimed removes what has ended, whoever is still there."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]
UNTIL_TOLD = "until [ -e /told/end ]; do sleep 0.05; done"


def _went(node: TestNode, name: str) -> bool:
    return name not in node.slipway("ps", "-a").stdout + node.slipway("pods").stdout


def _nothing_is_left(node: TestNode, name: str) -> bool:
    return _went(node, name) and not any(node.leftovers().values())


def _log(node: TestNode, name: str) -> Path:
    return Path(json.loads(node.slipway("inspect", name).stdout)[0]["status"]["log_path"])


def _started(node: TestNode, *words: str) -> "subprocess.Popen[str]":
    command = [str(Path(sys.executable).parent / "slipway"), "--run-dir", str(node.run_dir), "run", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _runs(node: TestNode, name: str) -> bool:
    return f" {name} " in node.slipway("ps").stdout


def test_it_goes_with_its_pod_and_its_logs_before_the_command_ends(node: TestNode, busybox: str) -> None:
    before = set((node.data_dir / "logs").glob("*"))
    done = node.slipway("run", "--rm", "--name", "brief", busybox, "sh", "-c", "echo said; exit 7")
    assert (done.returncode, done.stdout) == (7, "said\n"), done.stderr
    assert _nothing_is_left(node, "brief")
    assert set((node.data_dir / "logs").glob("*")) == before
    failed = node.slipway("run", "--rm", "--name", "typo", busybox, "/no/such")
    assert failed.returncode == 127
    assert _nothing_is_left(node, "typo")


def test_it_goes_when_nobody_waits_for_it(node: TestNode, busybox: str, tmp_path: Path) -> None:
    words = ["--rm", "--name", "alone", "-v", f"{tmp_path}:/told"]
    done = node.slipway("run", "-d", *words, busybox, "sh", "-c", UNTIL_TOLD)
    assert done.returncode == 0, done.stderr
    log = _log(node, "alone")
    assert _runs(node, "alone")
    (tmp_path / "end").touch()
    eventually(lambda: _nothing_is_left(node, "alone"), what="it goes")
    assert not log.parent.exists()
    assert node.slipway("run", "-d", "--rm", "--name", "typo", busybox, "/no/such").returncode == 127
    eventually(lambda: _nothing_is_left(node, "typo"), what="what did not start goes")


def test_who_waits_has_the_code_and_it_goes_then(node: TestNode, busybox: str, tmp_path: Path) -> None:
    words = ["--rm", "--name", "waited", "-v", f"{tmp_path}:/told"]
    assert node.slipway("run", "-d", *words, busybox, "sh", "-c", f"{UNTIL_TOLD}; exit 9").returncode == 0
    before = _keeps(node)
    command = [str(Path(sys.executable).parent / "slipway"), "--run-dir", str(node.run_dir), "wait", "waited"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
        eventually(lambda: _keeps(node) > before, what="it is kept")
        (tmp_path / "end").touch()
        assert waiting.communicate(timeout=60)[0] == "9\n"
    eventually(lambda: _nothing_is_left(node, "waited"), what="it goes")


def _keeps(node: TestNode) -> int:
    return (node.run_dir / "log" / "runtimed.log").read_text().count("container.kept")


def test_who_starts_it_later_has_its_output_and_its_code(node: TestNode, busybox: str) -> None:
    for script in ("echo said; exit 7", "sleep 1; echo said; exit 7"):
        made = node.slipway("create", "--rm", "--name", "later", busybox, "sh", "-c", script)
        assert made.returncode == 0, made.stderr
        done = node.slipway("start", "-a", "later")
        assert (done.returncode, done.stdout) == (7, "said\n"), done.stderr
        eventually(lambda: _nothing_is_left(node, "later"), what="it goes")


@pytest.mark.parametrize("words", [["-t", "0"], ["-s", "KILL"]])
def test_a_restart_has_it_run_again_before_it_goes(node: TestNode, busybox: str, words: list[str]) -> None:
    made = node.slipway("run", "-d", "--rm", "--name", "again", busybox, "sleep", "1000")
    assert made.returncode == 0, made.stderr
    done = node.slipway("restart", *words, "again")
    assert (done.returncode, done.stdout) == (0, "again\n"), done.stderr
    assert _runs(node, "again")
    assert json.loads(node.slipway("inspect", "again").stdout)[0]["status"]["id"] == made.stdout.strip()
    assert node.slipway("kill", "again").returncode == 0
    eventually(lambda: _nothing_is_left(node, "again"), what="it goes")


def test_it_goes_though_its_client_has_died(node: TestNode, busybox: str, tmp_path: Path) -> None:
    client = _started(
        node, "--rm", "--name", "widow", "-v", f"{tmp_path}:/told", busybox, "sh", "-c", UNTIL_TOLD
    )
    eventually(lambda: _runs(node, "widow"), what="it runs")
    os.kill(client.pid, signal.SIGKILL)
    client.communicate()
    assert _runs(node, "widow")
    (tmp_path / "end").touch()
    eventually(lambda: _nothing_is_left(node, "widow"), what="it goes")


def test_a_restart_of_runtimed_loses_neither_the_client_nor_the_removal(
    node: TestNode, busybox: str, tmp_path: Path
) -> None:
    where = ["-v", f"{tmp_path}:/told"]
    alone = ["-d", "--rm", "--name", "alone", *where]
    assert node.slipway("run", *alone, busybox, "sh", "-c", UNTIL_TOLD).returncode == 0
    later = ["-d", "--rm", "--name", "later", busybox, "sleep", "1000"]
    assert node.slipway("run", *later).returncode == 0
    script = f"echo first; {UNTIL_TOLD}; echo last; exit 5"
    client = _started(node, "--rm", "--name", "watched", *where, busybox, "sh", "-c", script)
    eventually(lambda: _runs(node, "watched"), what="it runs")
    old = node.kill("runtimed")
    (tmp_path / "end").touch()
    eventually(lambda: node.pid("runtimed") != old, what="runtimed is back")
    new = node.pid("runtimed")
    said, told = client.communicate(timeout=60)
    assert (client.returncode, said) == (5, "first\nlast\n"), told
    for name in ("watched", "alone"):
        eventually(partial(_went, node, name), what=f"{name} goes")
    assert node.slipway("kill", "later").returncode == 0
    eventually(lambda: _nothing_is_left(node, "later"), what="it goes, whose keeper has had its time")
    assert node.pid("runtimed") == new, "runtimed fell"
