"""What a shim weighs and how long it takes to fork one; the goal is 820 KiB."""

import statistics
import time
from pathlib import Path

import pytest

from tests.support.pace import patience

from .conftest import workers_left

pytestmark = [pytest.mark.root, pytest.mark.anyio]


def pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError(pid)


async def test_fifty_shims_stay_below_their_budget(node):
    times, pids = [], []
    await node.service.spawn_pause("warm")
    for number in range(50):
        spec = {
            "container_id": f"c{number}",
            "bundle_path": "/nowhere",
            "runtime": {"binary": "crun", "args": [], "root": ""},
            "record_dir": str(node.root / "records"),
        }
        begin = time.perf_counter()
        pids.append((await node.service.spawn(spec)).pid)
        times.append((time.perf_counter() - begin) * 1000)
        client = await node.client(f"c{number}")
        assert (await client.state())["state"] == "created"
        await client.close()
    await workers_left(*pids)
    weight, fork = statistics.median(map(pss_kib, pids)), statistics.median(times)
    print(f"PSS {weight} KiB, spawn {fork:.2f} ms")
    assert weight <= 820
    assert fork < patience(10)


async def test_running_shims_stay_below_their_budget(node):
    pids, over = [], []
    for number in range(50):
        shim = await node.spawn(f"c{number}", "sh", "-c", "echo hello; exec sleep 1000")
        begin = time.time_ns()
        started = await shim.start()
        over.append((time.time_ns() - begin - (started.runtime_end_ns - started.runtime_begin_ns)) / 1e6)
        await shim.close()
    pids = [found.pid for found in await node.service.list_shims()]
    await workers_left(*pids)
    weight = statistics.median(map(pss_kib, pids))
    print(f"PSS running {weight} KiB; start over the runtime's own {statistics.median(over):.2f} ms")
    assert weight <= 820
    assert statistics.median(over) < patience(20)
