"""Pull and unpack of a large image, against Debian's containerd from the same registry in the same run."""

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri, connect
from tests.support.eventually import eventually

RUNS = 3


@asynccontextmanager
async def containerd(directory: Path) -> AsyncIterator[Cri]:
    """Debian's containerd with its CRI plugin, in directories of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = f"""
version = 2
root = "{directory}/root"
state = "{directory}/state"
[grpc]
address = "{directory}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{directory}/cni"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"
"""
    (directory / "config.toml").write_text(settings)
    with (directory / "containerd.log").open("wb") as log:
        process = subprocess.Popen(
            ["containerd", "--config", str(directory / "config.toml")], stdout=log, stderr=log
        )
    try:
        eventually(lambda: (directory / "containerd.sock").is_socket(), what="containerd")
        async with connect(f"{directory}/containerd.sock", directory) as cri:
            yield cri
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(directory, ignore_errors=True)


async def _timed_pull(cri: Cri, reference: str) -> float:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    start = time.perf_counter()
    await cri.pull(reference)
    elapsed = time.perf_counter() - start
    await cri.call(cri.images.RemoveImage, cri_pb.RemoveImageRequest(image=cri_pb.ImageSpec(image=reference)))
    return elapsed


async def compare(ours: Cri, reference: str, directory: Path) -> dict[str, float]:
    """Seconds of a cold pull, ours and containerd's in turn; medians."""
    mine, theirs = [], []
    async with containerd(directory) as peer:
        for _ in range(RUNS):
            mine.append(await _timed_pull(ours, reference))
            theirs.append(await _timed_pull(peer, reference))
    return {"slipway_s": statistics.median(mine), "containerd_s": statistics.median(theirs)}
