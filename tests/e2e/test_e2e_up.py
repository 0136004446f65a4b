"""`slipway-node up` where it is hard."""

import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from common.sys.mounts import unmount_below
from tests.support.pace import patience

pytestmark = [pytest.mark.e2e, pytest.mark.root]
SLIPWAY_NODE = Path(sys.executable).parent / "slipway-node"


@pytest.fixture
def run_dir():
    path = Path(f"/run/slipway-test-{uuid.uuid4().hex[:6]}")
    yield path
    unmount_below(path)
    subprocess.run(["rm", "-rf", path], check=True, timeout=20)


def test_up_gives_up_on_a_service_that_dies_again_and_again(run_dir, tmp_path):
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
    assert done.stderr.startswith("slipway-node: imaged died 3 times: "), done.stderr
    assert "nonsense" in done.stderr.lower()
    assert f"see {run_dir}/log/imaged.log" in done.stderr
    assert not (run_dir / "node.json").exists(), "the supervisor goes on"


def test_nats_keeps_its_port_over_the_death_of_the_supervisor(run_dir, tmp_path):
    def run(verb: str) -> None:
        command = [SLIPWAY_NODE, verb, "--run-dir", str(run_dir), "--data-dir", str(tmp_path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=patience(80))

    def state() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((run_dir / "node.json").read_text())
        return found

    run("up")
    try:
        before = state()
        supervisor = os.pidfd_open(before["supervisor"])
        signal.pidfd_send_signal(supervisor, signal.SIGKILL)
        assert select.select([supervisor], [], [], 10)[0]
        os.close(supervisor)
        run("up")
        after = state()
    finally:
        run("down")
    assert after["supervisor"] != before["supervisor"]
    assert after["nats_port"] == before["nats_port"]
