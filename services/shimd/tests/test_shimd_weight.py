"""What a shim weighs; the goal is 820 KiB."""

import statistics
from pathlib import Path

import pytest

from .conftest import Node, workers_left

pytestmark = [pytest.mark.root, pytest.mark.anyio]
BUDGET_KIB = 820


def pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError(pid)


async def test_fifty_shims_stay_below_their_budget(node: Node) -> None:
    pids = []
    await node.service.spawn_pause("warm")
    for number in range(50):
        spec = {
            "container_id": f"c{number}",
            "bundle_path": "/nowhere",
            "runtime": {"binary": "crun", "args": [], "root": ""},
            "record_dir": str(node.root / "records"),
        }
        pids.append((await node.service.spawn(spec)).pid)
        client = await node.client(f"c{number}")
        assert (await client.state())["state"] == "created"
        await client.close()
    await workers_left(*pids)
    assert statistics.median(map(pss_kib, pids)) <= BUDGET_KIB


async def test_running_shims_stay_below_their_budget(node: Node) -> None:
    for number in range(50):
        shim = await node.spawn(f"c{number}", "sh", "-c", "echo hello; exec sleep 1000")
        await shim.start()
        await shim.close()
    pids = [found.pid for found in await node.service.list_shims()]
    await workers_left(*pids)
    assert statistics.median(map(pss_kib, pids)) <= BUDGET_KIB
