"""`slipway-node up` where it is hard."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.sys.mounts import unmount_below
from node import logfiles
from node.main import main
from tests.support.eventually import eventually
from tests.support.node import TestNode
from tests.support.pace import patience

pytestmark = [pytest.mark.e2e, pytest.mark.root]
SLIPWAY_NODE = str(Path(sys.executable).parent / "slipway-node")


@pytest.fixture
def run_dir() -> Iterator[Path]:
    path = Path(f"/run/slipway-test-{uuid.uuid4().hex[:6]}")
    yield path
    unmount_below(path)
    subprocess.run(["rm", "-rf", path], check=True, timeout=20)


def test_up_gives_up_on_a_service_that_dies_again_and_again(run_dir: Path, tmp_path: Path) -> None:
    command = [SLIPWAY_NODE, "up", "--run-dir", str(run_dir), "--data-dir", str(tmp_path)]
    started = time.monotonic()
    done = subprocess.run(
        command,
        env=os.environ | {"SLIPWAY_IMAGED_NONSENSE": "1"},
        capture_output=True,
        text=True,
        timeout=patience(50),
        check=False,
    )
    assert done.returncode == 1
    assert time.monotonic() - started < patience(30)
    # three are enough to give up; a slow look sees some more
    assert re.match(r"slipway-node: imaged died [3-9] times: ", done.stderr), done.stderr
    assert "nonsense" in done.stderr.lower()
    assert f"see {run_dir}/log/imaged.log" in done.stderr
    assert not (run_dir / "node.json").exists(), "the supervisor goes on"


def test_a_node_whose_supervisor_died_starts_with_its_old_processes_gone(
    run_dir: Path, tmp_path: Path
) -> None:
    """Two of Redis would write to one file; whoever follows NATS knows its port."""

    def run(verb: str) -> str:
        command = [SLIPWAY_NODE, verb, "--run-dir", str(run_dir), "--data-dir", str(tmp_path)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=patience(80))
        return str(done.stdout)

    def state() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((run_dir / "node.json").read_text())
        return found

    said = run("up")
    try:
        token = (tmp_path / "opsd/token").read_text()
        assert re.search(rf"  page    http://127.0.0.1:\d+/#token={token}\n", said)
        before = state()
        supervisor = os.pidfd_open(before["supervisor"])
        signal.pidfd_send_signal(supervisor, signal.SIGKILL)
        assert select.select([supervisor], [], [], 10)[0]
        os.close(supervisor)
        run("up")
        after = state()
        left = [name for name, pid in before["pids"].items() if _runs(pid)]
    finally:
        run("down")
    assert not left
    assert after["supervisor"] != before["supervisor"]
    assert after["nats_port"] == before["nats_port"]


def test_a_log_that_grows_large_is_begun_anew_by_the_process_that_writes_it(
    run_dir: Path, tmp_path: Path
) -> None:
    options = ["--run-dir", str(run_dir), "--data-dir", str(tmp_path)]
    subprocess.run([SLIPWAY_NODE, "up", *options], check=True, timeout=patience(80))
    try:
        log, before = run_dir / "log/opsd.log", run_dir / "log/opsd.log.1"
        with log.open("ab") as file:
            file.write(b"much\n" * (logfiles.MOST_BYTES // 5 + 1))
        eventually(
            lambda: log.stat().st_size < logfiles.MOST_BYTES, within_s=30, what="the log to begin anew"
        )
        pid = json.loads((run_dir / "node.json").read_text())["pids"]["opsd"]
        os.kill(pid, signal.SIGHUP)
        eventually(lambda: "settings.read" in log.read_text(), what="a line in it")
    finally:
        subprocess.run([SLIPWAY_NODE, "down", *options], check=True, timeout=patience(80))
    assert log.read_text().startswith("{")
    kept = before.read_text()
    assert kept.startswith("{")
    assert kept.endswith("much\n")


def _runs(pid: int) -> bool:
    """Whether it is there, and no zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_prepare_writes_what_the_units_start_with(run_dir: Path, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f'run_dir = "{run_dir}"\nnode = "n-1"\n')
    command = [SLIPWAY_NODE, "prepare", "--config", str(config)]
    command += ["--run-dir", str(run_dir), "--data-dir", str(tmp_path / "data")]
    subprocess.run(command, check=True, timeout=patience(20))
    port = json.loads((run_dir / "node.json").read_text())["nats_port"]
    with socket.create_server(("127.0.0.1", port)):  # as NATS does when they are written again
        subprocess.run(command, check=True, timeout=patience(20))
    state = json.loads((run_dir / "node.json").read_text())
    assert state["nats_port"] == port
    settings = tomllib.loads((run_dir / "settings" / "imaged.toml").read_text())
    assert settings["node"] == state["node"] == "n-1"
    assert settings["nats_url"] == state["nats_url"]
    assert settings["nats_url"].endswith(f":{state['nats_port']}")
    assert (run_dir / "settings" / "imaged.toml").stat().st_mode & 0o77 == 0, "it has the token"
    assert (run_dir / "settings/own-nats").exists()
    with config.open("a") as file:
        file.write('nats_url = "nats://secret@nats.internal:4222"\n')
    subprocess.run(command, check=True, timeout=patience(20))
    state = json.loads((run_dir / "node.json").read_text())
    assert state["nats_url"] == "nats://secret@nats.internal:4222"
    own = [path.name for path in (run_dir / "settings").glob("own-*")]
    assert own == ["own-redis"], "the condition of the other unit"
    up = [SLIPWAY_NODE, "up", "--run-dir", str(run_dir), "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(up, capture_output=True, text=True, timeout=patience(20), check=False)
    assert done.returncode == 1
    assert f"systemd runs the node in {run_dir}" in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nats_prot = 1", "{config}: nats_prot = 1: known are "),
        ("nats_port = true", "{config}: nats_port = True: known are "),
        ("nats_port =", "{config}: Invalid value"),
        ("data_dir = '/srv'", "{config}: data_dir = '/srv': systemd's units have /var/lib/slipway "),
        ("nats_url = 'a:pw@b'", "nats_url = '***@b': want nats://TOKEN@HOST:PORT, more "),
        ("nats_port = 99999", "nats_port = 99999: a port is at most 65535"),
    ],
)
def test_prepare_refuses_what_is_no_option(
    text: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "node.toml"
    config.write_text(text)
    monkeypatch.setattr(sys, "argv", ["slipway-node", "prepare", "--config", str(config)])
    with pytest.raises(SystemExit) as refused:
        main()
    assert refused.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(f"slipway-node: {said.format(config=config)}")
    assert error.count("\n") == 1


def test_who_reads_the_status_may_leave(node: TestNode) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    command = [SLIPWAY_NODE, "status", "--run-dir", str(node.run_dir)]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, timeout=patience(50), check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")
