"""Pod ready against bare crun, and what idle pods cost in memory."""

import json
import os
import re
import shutil
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import bare
from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri

RUNS = 60
WARM = 3
IDLE_PODS = 50
SERVICES = ("imaged", "snapshotd", "runtimed", "shimd", "crid")


@dataclass(frozen=True)
class Pairs:
    """Milliseconds of ours and of the floor, measured in turn."""

    ours: list[float]
    floor: list[float]


async def pod_ready(cri: Cri, image: str, bundle: Path) -> Pairs:
    """A pod with the host's network, and a bare `crun run`."""
    with bare.crun(bundle) as crun:

        def floor(name: str) -> float:
            took = crun.run(name)
            crun.delete(name)
            return took

        return await _in_turn(partial(ready, cri, image, host_network=True), floor)


async def pod_ready_cni(cri: Cri, image: str, bundle: Path, conflist: Path) -> Pairs:
    """A pod with a network of its own, and a bare `crun run` and the chain's ADD one after the other."""
    with bare.crun(bundle) as crun, bare.chain(conflist) as chain:

        def floor(name: str) -> float:
            took = chain.add(name) + crun.run(name)
            crun.delete(name)
            chain.delete(name)
            return took

        return await _in_turn(partial(ready, cri, image, host_network=False), floor)


async def exec_sync(cri: Cri, image: str, bundle: Path) -> Pairs:
    """ExecSync of `true`, and a bare `crun exec`."""
    sandbox = cri.sandbox_config("bench-exec", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    container_id = await cri.create(sandbox_id, cri.container_config("c", image, ["sleep", "1000"]), sandbox)
    await cri.start(container_id)

    async def ours(_name: str) -> float:
        start = time.perf_counter()
        await cri.exec(container_id, ["true"])
        return 1e3 * (time.perf_counter() - start)

    with bare.crun(bundle) as crun:
        crun.run("slipway-bench-exec")
        try:
            pairs = await _in_turn(ours, lambda _name: crun.exec("slipway-bench-exec"))
        finally:
            crun.delete("slipway-bench-exec")
    await cri.remove_sandbox(sandbox_id)
    return pairs


async def _in_turn(ours: Callable[[str], Awaitable[float]], floor: Callable[[str], float]) -> Pairs:
    """One of ours, one of the floor, and so on, each after the same rest."""
    pairs = Pairs([], [])
    for number in range(WARM + RUNS):
        time.sleep(bare.REST_S)
        pairs.ours.append(await ours(f"bench-{number}"))
        time.sleep(bare.REST_S)
        pairs.floor.append(floor(f"slipway-bench-{number}"))
    return Pairs(pairs.ours[WARM:], pairs.floor[WARM:])


async def ready(cri: Cri, image: str, name: str, *, host_network: bool) -> float:
    """Milliseconds of RunPodSandbox + CreateContainer + StartContainer; the pod is removed afterwards."""
    sandbox = cri.sandbox_config(name, host_network=host_network)
    config = cri.container_config("c", image, ["sleep", "1000"])
    Path(sandbox.log_directory).mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    sandbox_id = await cri.run_sandbox(sandbox)
    container_id = await cri.create(sandbox_id, config, sandbox)
    await cri.start(container_id)
    took = 1e3 * (time.perf_counter() - start)
    await cri.stop(container_id)
    await cri.remove(container_id)
    await cri.remove_sandbox(sandbox_id)
    return took


async def bundle_of(cri: Cri, image: str, run_dir: Path, into: Path) -> Path:
    """A bundle that bare crun can run, from one that the node wrote: same spec, root filesystem copied."""
    sandbox = cri.sandbox_config("bench-bundle", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    container_id = await cri.create(sandbox_id, cri.container_config("c", image, ["sleep", "1000"]), sandbox)
    spec = json.loads((run_dir / "runtimed" / "bundles" / container_id / "config.json").read_text())
    shutil.copytree(spec["root"]["path"], into / "rootfs", symlinks=True)
    spec["root"]["path"] = str(into / "rootfs")
    spec["linux"]["cgroupsPath"] = "/slipway-bench/bare"
    kept = [m for m in spec["mounts"] if m.get("type") != "bind" and "bind" not in m.get("options", [])]
    spec["mounts"] = kept
    spec["linux"]["namespaces"] = [
        {"type": n["type"]} for n in spec["linux"]["namespaces"] if n["type"] != "network"
    ]
    (into / "config.json").write_text(json.dumps(spec))
    await cri.remove(container_id)
    await cri.remove_sandbox(sandbox_id)
    return into


def pss_kib(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except FileNotFoundError:
        return 0  # a helper that has ended meanwhile
    found = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _tree(root: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def _workers(shim: int) -> list[int]:
    """The processes that a shim has only while it has something to do."""
    children = Path(f"/proc/{shim}/task/{shim}/children").read_text().split()
    return [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "slipway-shim\n"]


async def idle(cri: Cri, image: str, run_dir: Path) -> dict[str, Any]:
    """With 50 idle pods: PSS of the shims and the services, and the time of ListContainerStats."""
    for number in range(IDLE_PODS):
        sandbox = cri.sandbox_config(f"idle-{number}", host_network=True)
        sandbox_id = await cri.run_sandbox(sandbox)
        container_id = await cri.create(
            sandbox_id, cri.container_config("c", image, ["sleep", "1000"]), sandbox
        )
        await cri.start(container_id)
    shims = sorted((run_dir / "shimd" / "shims").iterdir())
    shim_pids = [int((path / "pid").read_text().split()[0]) for path in shims]
    shim_kib = [sum(map(pss_kib, [pid, *_workers(pid)])) for pid in shim_pids]
    state = json.loads((run_dir / "node.json").read_text())
    services = sum(
        pss_kib(pid) for name in SERVICES for pid in _tree(state["pids"][name]) if pid not in shim_pids
    )
    times = []
    for _ in range(20):
        start = time.perf_counter()
        answer = await cri.call(cri.runtime.ListContainerStats, cri_pb.ListContainerStatsRequest())
        times.append(1e3 * (time.perf_counter() - start))
        assert len(answer.stats) == IDLE_PODS
    await cri.remove_all()
    return {
        "shim_mib": statistics.median(shim_kib) / 1024,
        "services_mib": services / 1024,
        "list_stats_ms": statistics.median(times),
    }
