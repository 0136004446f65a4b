"""Pod ready against bare crun, and what idle pods cost in memory."""

import json
import os
import re
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri

RUNS = 30
IDLE_PODS = 50
SERVICES = ("imaged", "snapshotd", "runtimed", "shimd", "crid")
BARE = """
import json, subprocess, sys, time
bundle, runs = sys.argv[1], int(sys.argv[2])
times = []
for n in range(runs + 3):
    name = f"slipway-bench-{n}"
    start = time.perf_counter()
    subprocess.run(["crun", "run", "--detach", "--bundle", bundle, name], check=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    times.append(1e3 * (time.perf_counter() - start))
    subprocess.run(["crun", "delete", "-f", name], check=True)
print(json.dumps(times[3:]))
"""
EXEC = """
import json, subprocess, sys, time
bundle, runs = sys.argv[1], int(sys.argv[2])
quiet = dict(check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
subprocess.run(["crun", "run", "--detach", "--bundle", bundle, "slipway-bench-exec"], **quiet)
times = []
try:
    for n in range(runs + 3):
        start = time.perf_counter()
        subprocess.run(["crun", "exec", "slipway-bench-exec", "true"], **quiet)
        times.append(1e3 * (time.perf_counter() - start))
finally:
    subprocess.run(["crun", "delete", "-f", "slipway-bench-exec"], check=True)
print(json.dumps(times[3:]))
"""
"""Runs where the hybrid cgroup hierarchy, which crun refuses, is out of sight."""


def in_private_mounts(python: str, *arguments: str) -> str:
    """Run a script in a mount namespace without /sys/fs/cgroup/unified."""
    shell = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec python3 -c "$0" "$@"'
    command = ["unshare", "--mount", "sh", "-c", shell, python, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


async def pod_ready(cri: Cri, image: str, *, host_network: bool, tag: str) -> list[float]:
    """Milliseconds of RunPodSandbox + CreateContainer + StartContainer, each pod removed afterwards."""
    times = []
    for number in range(RUNS + 3):
        sandbox = cri.sandbox_config(f"bench-{tag}-{number}", host_network=host_network)
        config = cri.container_config("c", image, ["sleep", "1000"])
        Path(sandbox.log_directory).mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        sandbox_id = await cri.run_sandbox(sandbox)
        container_id = await cri.create(sandbox_id, config, sandbox)
        await cri.start(container_id)
        times.append(1e3 * (time.perf_counter() - start))
        await cri.stop(container_id)
        await cri.remove(container_id)
        await cri.remove_sandbox(sandbox_id)
    return times[3:]


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


async def exec_sync(cri: Cri, image: str) -> list[float]:
    """Milliseconds of ExecSync of `true`."""
    sandbox = cri.sandbox_config("bench-exec", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    container_id = await cri.create(sandbox_id, cri.container_config("c", image, ["sleep", "1000"]), sandbox)
    await cri.start(container_id)
    times = []
    for _ in range(RUNS + 3):
        start = time.perf_counter()
        await cri.exec(container_id, ["true"])
        times.append(1e3 * (time.perf_counter() - start))
    await cri.stop(container_id)
    await cri.remove(container_id)
    await cri.remove_sandbox(sandbox_id)
    return times[3:]


def bare_exec(bundle: Path) -> list[float]:
    """Milliseconds of `crun exec`."""
    found: list[float] = json.loads(in_private_mounts(EXEC, str(bundle), str(RUNS)))
    return found


def bare_crun(bundle: Path) -> list[float]:
    """Milliseconds of `crun run --detach`."""
    found: list[float] = json.loads(in_private_mounts(BARE, str(bundle), str(RUNS)))
    return found


def bare_cni(conflist: Path) -> list[float]:
    """Milliseconds of the CNI chain's ADD, called as libcni would, in a network namespace of its own."""
    document = json.loads(conflist.read_text())
    times = []
    subprocess.run(["ip", "netns", "add", "slipway-bench"], check=True)
    try:
        for number in range(RUNS):
            elapsed = 0.0
            environment = {
                "CNI_CONTAINERID": f"bench{number}",
                "CNI_NETNS": "/var/run/netns/slipway-bench",
                "CNI_IFNAME": "eth0",
                "CNI_PATH": "/usr/lib/cni",
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            }
            for verb in ("ADD", "DEL"):
                result: Any = None
                plugins = document["plugins"] if verb == "ADD" else document["plugins"][::-1]
                for plugin in plugins:
                    settings = {"cniVersion": document["cniVersion"], "name": document["name"], **plugin}
                    settings |= {"prevResult": result} if result else {}
                    start = time.perf_counter()
                    done = subprocess.run(
                        [f"/usr/lib/cni/{plugin['type']}"],
                        input=json.dumps(settings),
                        env=environment | {"CNI_COMMAND": verb},
                        capture_output=True,
                        text=True,
                        check=True,
                    )
                    elapsed += (time.perf_counter() - start) if verb == "ADD" else 0
                    result = json.loads(done.stdout) if verb == "ADD" else None
            times.append(1e3 * elapsed)
    finally:
        subprocess.run(["ip", "netns", "delete", "slipway-bench"], check=True)
    return times


def pss_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
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
    shim_kib = [pss_kib(pid) for pid in shim_pids]
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
