"""Pressure on a node and on containers is told before anything dies, and cleared when it is over."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from common.events.bus import follow
from common.sys.mounts import unmount_below
from devtools.cri import Cri, connect
from devtools.registry import Registry
from tests.e2e.test_e2e_pods import exited
from tests.support.node import TestNode, running_node
from tests.support.pace import patience
from tests.support.prometheus import scrape

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.anyio, pytest.mark.timeout(120)]
SETTINGS = {
    "SLIPWAY_RUNTIMED_PRESSURE_EVERY_S": "0.2",
    "SLIPWAY_RUNTIMED_PRESSURE_CALM_S": "0.5",
    "SLIPWAY_RUNTIMED_PRESSURE_DISK_PERCENT": "60",
    "SLIPWAY_RUNTIMED_PRESSURE_CPU_PERCENT": "0.01",
    "SLIPWAY_RUNTIMED_PRESSURE_MEMORY_PERCENT": "0.01",
}
LIMIT_BYTES = 64 << 20
DISK_BYTES = 128 << 20
"""Of the node's data directory, a filesystem of its own that a test can fill."""
NEEDS_PSI = pytest.mark.skipif(not Path("/proc/pressure").exists(), reason="a kernel without PSI")


@pytest.fixture(scope="module")
def watched(shop: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNode]:
    place = tmp_path_factory.mktemp("pressure")
    size = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)]
    subprocess.run(size, check=True, timeout=20)
    try:
        with running_node(place, settings=SETTINGS) as running:
            yield running
    finally:
        unmount_below(place)


async def _heard(node: TestNode, verb: str, resource: str, object_id: str = "*") -> dict[str, Any]:
    """The first event of this verb about a resource."""
    with anyio.fail_after(patience(30)):
        async for envelope in follow(node.state["nats_url"], object_id=object_id, verb=verb, since_ns=0):
            fields = envelope.fields()
            if resource in (fields["id"], fields.get("resource")):
                return fields
    raise AssertionError


async def test_a_disk_past_its_threshold_is_told_and_cleared(watched: TestNode) -> None:
    full = watched.data_dir / "full"
    full.write_bytes(bytes(DISK_BYTES * 2 // 3))
    raised = await _heard(watched, "pressure_raised", "disk")
    assert raised["type"] == "node.pressure_raised.v1"
    assert raised["where"] == str(watched.data_dir)
    assert raised["value"] >= raised["threshold"] == 60
    full.unlink()
    cleared = await _heard(watched, "pressure_cleared", "disk")
    assert cleared["value"] < 54
    assert cleared["duration_ms"] >= 500
    samples = scrape(watched.run_dir, "runtimed")
    assert samples["slipway_runtimed_node_pressure", '{resource="disk"}'] == 0


async def _limited(cri: Cri, image: str, name: str, script: str = "sleep 1000", *mounts: cri_pb.Mount) -> str:
    sandbox = cri.sandbox_config(name, host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    config = cri.container_config(name, image, ["sh", "-c", script])
    config.linux.resources.memory_limit_in_bytes = LIMIT_BYTES
    config.mounts.extend(mounts)
    container_id = await cri.create(sandbox_id, config, sandbox)
    await cri.start(container_id)
    return container_id


async def test_memory_near_its_limit_is_told_and_cleared(watched: TestNode, busybox: str) -> None:
    async with connect(watched.socket, watched.logs) as cri:
        await cri.pull(busybox)
        container_id = await _limited(cri, busybox, "near")
        filled = await cri.exec(
            container_id, ["dd", "if=/dev/zero", "of=/dev/shm/full", "bs=1M", "count=60"], timeout_s=30
        )
        assert filled.exit_code == 0, filled.stderr
        raised = await _heard(watched, "pressure_raised", "memory-usage", container_id)
        assert 90 <= raised["value"] <= 100
        assert raised["threshold"] == 90
        await cri.exec(container_id, ["rm", "/dev/shm/full"])
        cleared = await _heard(watched, "pressure_cleared", "memory-usage", container_id)
        assert cleared["value"] < 81
        assert cleared["duration_ms"] >= 500
        assert (await cri.status(container_id)).state == cri_pb.CONTAINER_RUNNING
        told = watched.slipway("events", "--since", "1h", "--until-now", "--filter", "verb=pressure_raised")
        assert "resource=memory-usage" in told.stdout, told.stderr
        explained = watched.slipway("why", "near").stdout
        assert "memory-usage is at" in explained
        await cri.remove_all()


async def test_a_process_killed_for_memory_is_told_of_a_container_that_lives_on(
    watched: TestNode, busybox: str
) -> None:
    async with connect(watched.socket, watched.logs) as cri:
        await cri.pull(busybox)
        container_id = await _limited(cri, busybox, "child", "tail /dev/zero; sleep 1000")
        raised = await _heard(watched, "pressure_raised", "oom-kill", container_id)
        assert raised["value"] >= 1
        assert (await cri.status(container_id)).state == cri_pb.CONTAINER_RUNNING
        await cri.remove_all()


@NEEDS_PSI
async def test_stalls_of_the_node_are_told_and_explain_a_kill_from_outside(
    watched: TestNode, busybox: str, tmp_path: Path
) -> None:
    holes = tmp_path / "holes"
    with holes.open("wb") as file:
        file.truncate(4 * LIMIT_BYTES)  # of which the kernel keeps pages, and must give back some for others
    async with connect(watched.socket, watched.logs) as cri:
        await cri.pull(busybox)
        mount = cri_pb.Mount(container_path="/holes", host_path=str(holes), readonly=True)
        container_id = await _limited(
            cri, busybox, "stalled", "while cat /holes; do :; done >/dev/null", mount
        )
        for resource in ("memory", "cpu"):
            stall = await _heard(watched, "pressure_raised", resource, resource)
            assert stall["type"] == "node.pressure_raised.v1"
            assert 100 >= stall["value"] >= stall["threshold"] == 0.01
        info = json.loads(watched.slipway("inspect", "stalled").stdout)[0]["info"]["info"]
        os.kill(json.loads(info)["pid"], signal.SIGKILL)
        await exited(cri, container_id)
        explained = watched.slipway("why", "stalled").stdout
        assert "ended by SIGKILL" in explained
        assert "the node was short of memory" in explained
        await cri.remove_all()
