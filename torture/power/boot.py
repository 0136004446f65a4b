"""One boot in the emulated machine: the node on the disk that is kept, what the cut has left of it, then churn until the next.

Each line that it prints counts from then on, since the machine outside reads it before the power goes:
`CHECKED images codes problems`, `PULLED name`, `REMOVING name`, `STARTING container code`, `ENDED container`,
`FORGETTING container`, `PROBLEM sentence`.
"""

import argparse
import hashlib
import random
import subprocess
import tempfile
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tarfile import TarInfo

import anyio
import grpc

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri, connect
from devtools.registry import Layer, Registry, busybox_layer, directory, file, layer, registry
from tests.support.node import TestNode, running_node
from tests.support.pace import patience
from torture.again import Again
from torture.churn import LOST_CODE

DISK = "/dev/disk/by-id/virtio-kept"
KEPT, NAME = Path("/var/lib/slipway-power"), "70e500"
"""The same at each boot, as they are of any node."""
IMAGES, LAYERS, FILES, FILE_BYTES = 6, 3, 120, 40_000
DOMAIN = "power.example"
STAY = 3
"""Ended pods at a time."""
SETTLE_S = patience(60)


def main() -> None:
    """Mount, look, churn until the power goes."""
    parser = argparse.ArgumentParser(prog="torture.power.boot", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--has", nargs="*", default=[], help="images that were pulled for good")
    parser.add_argument(
        "--promised", nargs="*", default=[], help="CONTAINER=CODE of containers that were to be started"
    )
    parser.add_argument("--ended", nargs="*", default=[], help="those of them whose end was told")
    arguments = parser.parse_args()
    codes = dict(each.split("=") for each in arguments.promised)
    before = Before(
        set(arguments.has), {name: int(code) for name, code in codes.items()}, set(arguments.ended)
    )
    KEPT.mkdir()
    subprocess.run(["mount", DISK, str(KEPT)], check=True)
    anyio.run(live, KEPT, random.Random(arguments.seed), before)


@dataclass(frozen=True)
class Before:
    """What was said before the power went."""

    has: set[str]
    """Images that were pulled."""
    promised: dict[str, int]
    """Exit codes of containers that were to be started, and not yet removed."""
    ended: set[str]
    """Those of them whose end was told."""


async def live(kept: Path, dice: random.Random, before: Before) -> None:
    """Bring the node up on what is there, compare that with what must be, and go on."""
    with tempfile.TemporaryDirectory(prefix="slipway-power-") as made, registry(Path(made)) as shop:
        names = [push(shop, number) for number in range(IMAGES)]
        mirror = kept / "node" / "certs.d" / DOMAIN
        mirror.mkdir(parents=True, exist_ok=True)
        (mirror / "hosts.toml").write_text(f'server = "http://{shop.address}"\n')
        with running_node(kept, name=NAME) as node:
            async with connect(node.socket, node.logs) as cri:
                images, problems = await look(node, cri, before)
                for problem in problems:
                    say("PROBLEM", problem)
                say("CHECKED", str(images), str(len(before.promised)), str(len(problems)))
                async with anyio.create_task_group() as group:
                    group.start_soon(pulls, cri, names, dice)
                    group.start_soon(pods, cri, names, dice)


async def look(node: TestNode, cri: Cri, before: Before) -> tuple[int, list[str]]:
    """How many images are here, and what is wrong: of images, of pods from before, of records and the machine."""
    again = Again()
    problems = lies(before, await settled(cri, again))
    await again("remove all", cri.remove_all)
    listed = await again("images", partial(cri.call, cri.images.ListImages, cri_pb.ListImagesRequest()))
    here = sorted(tag for image in listed.images for tag in image.repo_tags)
    problems += [f"{name} was pulled and is not here" for name in sorted(before.has - set(here))]
    for name in here:
        code, text = await run(cri, again, "check", name, ["sha256sum", "-c", "-s", "/sums"])
        if code:
            problems.append(f"{name} is not whole: {text}")
    await again("remove all", cri.remove_all)
    problems += [f"{kind}: {', '.join(left[:5])}" for kind, left in node.leftovers().items() if left]
    # what NATS and Redis had not written to the disk is gone from the history of events
    problems += [one for one in await node.differences() if not one.startswith("event ")]
    return len(here), problems


async def settled(cri: Cri, again: Again) -> list[cri_pb.ContainerStatus]:
    """Of every container from before the cut what is said of it, once none is said to run: until then the node is finding out."""
    with anyio.move_on_after(SETTLE_S):
        while running(found := await statuses(cri, again)):
            await anyio.sleep(0.2)
        return found
    return await statuses(cri, again)


async def statuses(cri: Cri, again: Again) -> list[cri_pb.ContainerStatus]:
    request = cri_pb.ListContainersRequest()
    listed = await again("list", partial(cri.call, cri.runtime.ListContainers, request))
    return [await again("status", partial(cri.status, each.id)) for each in listed.containers]


def running(found: list[cri_pb.ContainerStatus]) -> list[str]:
    """Containers that are neither ended nor only made."""
    at_rest = (cri_pb.CONTAINER_EXITED, cri_pb.CONTAINER_CREATED)
    return [status.id for status in found if status.state not in at_rest]


def lies(before: Before, found: list[cri_pb.ContainerStatus]) -> list[str]:
    """What the records say of containers that ran or ended before the power went, and that is not so."""
    wrong = [f"container {name} is said to run after a boot" for name in running(found)]
    known = {status.id: status for status in found}
    over = {name for name, status in known.items() if status.state == cri_pb.CONTAINER_EXITED}
    wrong += [f"container {name} had ended, and nothing says so" for name in sorted(before.ended - over)]
    for name, status in known.items():
        code = before.promised.get(name)
        if code is None or name not in over or status.exit_code == code:
            continue
        if name in before.ended or (status.exit_code, status.reason) != (LOST_CODE, "Unknown"):
            wrong.append(f"container {name}: exit code {status.exit_code} ({status.reason}), not {code}")
    return wrong


async def pulls(cri: Cri, names: list[str], dice: random.Random) -> None:
    """Pull and remove images until the power goes."""
    while True:
        name = dice.choice(names)
        if dice.random() < 0.3:
            say("REMOVING", name)
            request = cri_pb.RemoveImageRequest(image=cri_pb.ImageSpec(image=name))
            await cri.call(cri.images.RemoveImage, request)
        else:
            await cri.pull(name)
            say("PULLED", name)


async def pods(cri: Cri, names: list[str], dice: random.Random) -> None:
    """Pods that write to their layer and end, until the power goes; the last few stay, to be looked at after the cut."""
    kept: deque[tuple[str, str]] = deque()
    while True:
        code = dice.randrange(1, 10)
        script = f"dd if=/dev/urandom of=/written bs=64k count=8 2>/dev/null; exit {code}"
        name, image = f"churn-{dice.randrange(10**6)}", dice.choice(names)
        try:
            sandbox_id, container_id = await make(cri, Again(), name, image, ["sh", "-c", script])
        except grpc.aio.AioRpcError as exc:
            if exc.code() is grpc.StatusCode.NOT_FOUND:  # its image is being removed
                continue
            raise
        say("STARTING", container_id, str(code))
        kept.append((sandbox_id, container_id))
        status = await ended(cri, Again(), container_id)
        if status.exit_code != code:
            say("PROBLEM", f"container {container_id}: exit code {status.exit_code}, not {code}")
        say("ENDED", container_id)
        if len(kept) > STAY:
            sandbox_id, container_id = kept.popleft()
            say("FORGETTING", container_id)
            await Again()("remove", partial(cri.remove_sandbox, sandbox_id))


async def run(cri: Cri, again: Again, name: str, image: str, command: list[str]) -> tuple[int, str]:
    """A pod with one container to its end: its exit code, and what it says of it."""
    sandbox_id, container_id = await make(cri, again, name, image, command)
    try:
        status = await ended(cri, again, container_id)
        return status.exit_code, f"{status.reason} {status.message}"
    finally:
        await again("remove", partial(cri.remove_sandbox, sandbox_id))


async def make(cri: Cri, again: Again, name: str, image: str, command: list[str]) -> tuple[str, str]:
    """A pod with one container that is not started; their ids. Nothing of it stays when it cannot be made."""
    config = cri.sandbox_config(name, host_network=True)
    sandbox_id = await again("sandbox", partial(cri.run_sandbox, config))
    try:
        container = cri.container_config("c", image, command)
        return sandbox_id, await again("create", partial(cri.create, sandbox_id, container, config))
    except grpc.aio.AioRpcError:
        await again("remove", partial(cri.remove_sandbox, sandbox_id))
        raise


async def ended(cri: Cri, again: Again, container_id: str) -> cri_pb.ContainerStatus:
    """What is said of a container after it was started and has ended."""
    await again("start", partial(cri.start, container_id))
    while True:
        status: cri_pb.ContainerStatus = await again("status", partial(cri.status, container_id))
        if status.state == cri_pb.CONTAINER_EXITED:
            return status
        await anyio.sleep(0.2)


def push(shop: Registry, number: int) -> str:
    """An image whose every file's sum is in it, the same at each boot; its name."""
    dice = random.Random(number)
    layers: list[Layer] = [busybox_layer()]
    sums = []
    for each in range(LAYERS):
        entries: list[TarInfo | tuple[TarInfo, bytes]] = [directory(f"data{each}")]
        for index in range(FILES):
            content = dice.randbytes(dice.randrange(FILE_BYTES))
            name = f"data{each}/{index}"
            entries.append(file(name, content))
            sums.append(f"{hashlib.sha256(content).hexdigest()}  /{name}")
        layers.append(layer(entries))
    layers.append(layer([file("sums", ("\n".join(sums) + "\n").encode())]))
    shop.push(f"power/image{number}", layers, {"Env": ["PATH=/bin"], "Cmd": ["sh"]})
    return f"{DOMAIN}/power/image{number}:latest"


def say(*words: str) -> None:
    print(*words, flush=True)


if __name__ == "__main__":
    main()
