"""What the command makes is on the dashboard for as long as it is there, whatever CRI's lists show."""

from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.node import TestNode, running_node
from tests.support.opsd import ask

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(150)]
QUICK = {"SLIPWAY_OPSD_REFRESH_S": "0.5", "SLIPWAY_OPSD_INTERVAL_S": "0.5"}
READINGS = 12
"""Of its use: six seconds, in which the lists were read several times, and no event is newer than they are."""


def _readings(node: TestNode, container_id: str) -> int:
    use = {each: len(cpu) for each, cpu, _ in ask(node.run_dir, "/api/v1/state")[1]["use"]}
    return use.get(container_id, 0)


def test_a_container_of_the_command_outlives_the_next_listing(busybox: str, tmp_path: Path) -> None:
    with running_node(tmp_path, settings=QUICK) as node:
        made = node.slipway("run", "-d", "--name", "mine", busybox, "sleep", "1000")
        assert made.returncode == 0, made.stderr
        container_id = made.stdout.strip()
        try:
            whole = eventually(
                lambda: next(
                    (
                        each["id"]
                        for each in ask(node.run_dir, "/api/v1/state")[1]["containers"]
                        if each["id"].startswith(container_id)
                    ),
                    "",
                ),
                what="the event of it",
            )
            eventually(lambda: _readings(node, whole) >= READINGS, within_s=60, what="its use")
            about = f"/api/v1/containers/{whole}"
            status, found = ask(node.run_dir, about)
            assert (status, found["state"]) == (200, "running")
            assert ask(node.run_dir, f"{about}/why")[1]["cause"] == "running"
            pods = ask(node.run_dir, "/api/v1/state")[1]["pods"]
            assert [pod["state"] for pod in pods] == ["ready"]
            assert node.slipway("pause", "mine").returncode == 0
            eventually(lambda: ask(node.run_dir, about)[1]["state"] == "paused", what="it is paused")
            assert node.slipway("unpause", "mine").returncode == 0
            token = (node.data_dir / "opsd" / "token").read_text()
            assert ask(node.run_dir, f"{about}/kill", "POST", token)[0] == 200
        finally:
            node.slipway("rm", "-f", "mine")
