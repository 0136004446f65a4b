"""Completion of what is on a node."""

import subprocess
import sys
from pathlib import Path

import pytest

from devtools.cri import Cri
from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.anyio, pytest.mark.timeout(120)]


def offered(node: TestNode, *words: str) -> list[str]:
    done = node.slipway("__complete", *words)
    assert done.returncode == 0, done.stderr
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


async def test_names_are_offered_where_they_fit_and_none_that_a_shell_would_run(
    node: TestNode, cri: Cri, busybox: str
) -> None:
    await cri.pull(busybox)
    for name, command in (
        ("web", ["sleep", "1000"]),
        ("done", ["true"]),
        ("$(touch ran)", ["sleep", "1000"]),
    ):
        config = cri.sandbox_config(f"pod-{name.strip('$()').replace(' ', '-')}", host_network=True)
        sandbox_id = await cri.run_sandbox(config)
        made = cri.container_config("c", busybox, command)
        made.metadata.name = name
        await cri.start(await cri.create(sandbox_id, made, config))
    node.slipway("wait", "done")
    assert offered(node, "stop", "") == ["web"]
    assert offered(node, "start", "") == ["done"]
    assert offered(node, "rm", "") == ["done", "web"]
    short = node.slipway("ps", "-q", "-f", "name=web").stdout.strip()
    assert offered(node, "stop", short[:6]) == [short]
    assert offered(node, "unpause", "") == []
    assert offered(node, "cp", "w") == ["web:"]
    assert "pod-web" in offered(node, "pods", "rm", "-f", "pod-w")
    assert busybox in offered(node, "run", "--rm", "127.")
    assert offered(node, "run", "--rm", busybox[:-4]) == [busybox]
    script = 'eval "$("$1" completion bash)"; COMP_LINE="$1 --run-dir $2 run $3"; COMP_POINT=${#COMP_LINE}; _slipway; echo "$COMPREPLY"'
    slipway = str(Path(sys.executable).parent / "slipway")
    shown = subprocess.run(
        ["bash", "-c", script, "bash", slipway, node.run_dir, busybox[:-4]],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert shown.stdout.strip() == busybox.rpartition(":")[2]  # bash has what is before the colon
    assert "sleep" not in offered(node, "--run-dir", "/nonexistent", "stop", "")
