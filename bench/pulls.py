"""Pull, unpack and removal of images, against Debian's containerd and skopeo with umoci from the same registry, in turn."""

import os
import shutil
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import anyio

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri, connect
from tests.support.eventually import eventually
from tests.support.memory import watched

RUNS = 5
REST_S = 2.0
"""After each: what was removed may still be freed on the disk, beside the next one's pull."""


@dataclass
class Took:
    """What one contender's runs took with one image."""

    pull_s: list[float] = field(default_factory=list)
    remove_ms: list[float] = field(default_factory=list)
    memory_mib: float = 0


class Contender(Protocol):
    """Something that pulls images."""

    name: str
    pids: Sequence[int]
    """Whose memory counts, with what they start."""

    async def pull(self, reference: str) -> None: ...

    async def remove(self, reference: str) -> None: ...


@dataclass
class CriContender:
    """A runtime behind CRI."""

    name: str
    cri: Cri
    pids: Sequence[int]

    async def pull(self, reference: str) -> None:
        await self.cri.pull(reference)

    async def remove(self, reference: str) -> None:
        image = cri_pb.ImageSpec(image=reference)
        await self.cri.call(self.cri.images.RemoveImage, cri_pb.RemoveImageRequest(image=image))


@dataclass
class Copied:
    """skopeo into an OCI layout, and umoci from there into a bundle."""

    directory: Path
    name: str = "skopeo + umoci"
    pids: Sequence[int] = ()

    async def pull(self, reference: str) -> None:
        self.directory.mkdir()
        layout = f"{self.directory}/layout:image"
        skopeo = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
        _run(*skopeo, f"docker://{reference}", f"oci:{layout}")
        _run("umoci", "unpack", "--image", layout, f"{self.directory}/bundle")

    async def remove(self, reference: str) -> None:
        shutil.rmtree(self.directory)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=600)


@asynccontextmanager
async def containerd(directory: Path) -> AsyncIterator[CriContender]:
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
            yield CriContender("containerd", cri, [process.pid])
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(directory, ignore_errors=True)


async def compare(contenders: Sequence[Contender], reference: str) -> dict[str, Took]:
    """By contender's name: each pulls and removes in its turn, with nothing of the disk in memory."""
    found: defaultdict[str, Took] = defaultdict(Took)
    for number in range(RUNS):
        for contender in contenders if number % 2 else reversed(contenders):
            await _once(contender, reference, found[contender.name])
    return found


async def _once(contender: Contender, reference: str, took: Took) -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    with watched(list(contender.pids)) as watch:
        start = time.perf_counter()
        await contender.pull(reference)
        took.pull_s.append(time.perf_counter() - start)
    took.memory_mib = max(took.memory_mib, watch.most_bytes / (1 << 20))
    start = time.perf_counter()
    await contender.remove(reference)
    took.remove_ms.append(1e3 * (time.perf_counter() - start))
    await anyio.sleep(REST_S)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
