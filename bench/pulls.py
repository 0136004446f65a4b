"""Pull and unpack of a large image, against Debian's containerd from the same registry in the same run."""

import gzip
import io
import os
import shutil
import statistics
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri, connect
from devtools.registry import Layer, Registry, digest
from tests.support.eventually import eventually

CACHE = Path("/var/cache/slipway-dev")
PACKAGES = "python3,perl,git,gcc"
LAYERS = 4
RUNS = 3


def large_image(registry: Registry) -> str:
    """Push a Debian root of some 340 MB and 26,000 files in four layers; made once, then cached."""
    CACHE.mkdir(parents=True, exist_ok=True)
    root = CACHE / "large.tar"
    if not root.exists():
        made = CACHE / "large.tar.new"
        command = [
            "mmdebstrap",
            "--variant=apt",
            f"--include={PACKAGES}",
            "bookworm",
            str(made),
            "--format=tar",
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=900)
        made.rename(root)
    return registry.push("bench/large", _split(root), {"Cmd": ["sh"]})


def _split(root: Path) -> list[Layer]:
    """The tree as four layers of like size; hard links stay with their targets."""
    outputs = [io.BytesIO() for _ in range(LAYERS)]
    with tarfile.open(root) as source:
        total = sum(member.size for member in source)
    tars = [tarfile.open(fileobj=o, mode="w", format=tarfile.PAX_FORMAT) for o in outputs]
    where: dict[str, int] = {}
    done = 0
    with tarfile.open(root) as source:
        for member in source:
            number = min(LAYERS - 1, done * LAYERS // max(total, 1))
            if member.islnk():
                number = where.get(member.linkname, number)
            if member.ischr() or member.isblk():
                continue
            where[member.name] = number
            tars[number].addfile(member, source.extractfile(member) if member.isreg() else None)
            done += member.size
    for tar in tars:
        tar.close()
    raws = [o.getvalue() for o in outputs]
    return [Layer(gzip.compress(raw, 6, mtime=0), digest(raw)) for raw in raws]


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
