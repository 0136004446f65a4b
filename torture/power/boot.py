"""One boot in the emulated machine: the node on the disk that is kept, what the cut has left of it, then churn until the next.

Each line that it prints counts from then on, since the machine outside reads it before the power goes:
`CHECKED images problems`, `PULLED name`, `REMOVING name`, `PROBLEM sentence`.
"""

import argparse
import hashlib
import random
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from tarfile import TarInfo

import anyio
import grpc

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri, connect
from devtools.registry import Layer, Registry, busybox_layer, directory, file, layer, registry
from tests.support.node import TestNode, running_node
from torture.again import Again

DISK = "/dev/disk/by-id/virtio-kept"
KEPT, NAME = Path("/var/lib/slipway-power"), "70e500"
"""The same at each boot, as they are of any node."""
IMAGES, LAYERS, FILES, FILE_BYTES = 6, 3, 120, 40_000
DOMAIN = "power.example"


def main() -> None:
    """Mount, look, churn until the power goes."""
    parser = argparse.ArgumentParser(prog="torture.power.boot", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--has", nargs="*", default=[], help="images that were pulled for good")
    arguments = parser.parse_args()
    KEPT.mkdir()
    subprocess.run(["mount", DISK, str(KEPT)], check=True)
    anyio.run(live, KEPT, random.Random(arguments.seed), set(arguments.has))


async def live(kept: Path, dice: random.Random, has: set[str]) -> None:
    """Bring the node up on what is there, compare that with what must be, and go on."""
    with tempfile.TemporaryDirectory(prefix="slipway-power-") as made, registry(Path(made)) as shop:
        names = [push(shop, number) for number in range(IMAGES)]
        mirror = kept / "node" / "certs.d" / DOMAIN
        mirror.mkdir(parents=True, exist_ok=True)
        (mirror / "hosts.toml").write_text(f'server = "http://{shop.address}"\n')
        with running_node(kept, name=NAME) as node:
            async with connect(node.socket, node.logs) as cri:
                images, problems = await look(node, cri, has)
                for problem in problems:
                    say("PROBLEM", problem)
                say("CHECKED", str(images), str(len(problems)))
                async with anyio.create_task_group() as group:
                    group.start_soon(pulls, cri, names, dice)
                    group.start_soon(pods, cri, names, dice)


async def look(node: TestNode, cri: Cri, has: set[str]) -> tuple[int, list[str]]:
    """How many images are here, and what is wrong: of images, of pods from before, of records and the machine."""
    again, problems = Again(), []
    await again("remove all", cri.remove_all)
    listed = await again("images", partial(cri.call, cri.images.ListImages, cri_pb.ListImagesRequest()))
    here = sorted(tag for image in listed.images for tag in image.repo_tags)
    problems += [f"{name} was pulled and is not here" for name in sorted(has - set(here))]
    for name in here:
        code, text = await run(cri, again, "check", name, ["sha256sum", "-c", "-s", "/sums"])
        if code:
            problems.append(f"{name} is not whole: {text}")
    await again("remove all", cri.remove_all)
    problems += [f"{kind}: {', '.join(left[:5])}" for kind, left in node.leftovers().items() if left]
    problems += [str(difference) for difference in await node.differences()]
    return len(here), problems


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
    """Pods that write to their layer, come and go until the power goes."""
    while True:
        script = f"dd if=/dev/urandom of=/written bs=64k count=8 2>/dev/null; exit {dice.randint(0, 9)}"
        try:
            await run(
                cri, Again(), f"churn-{dice.randrange(10**6)}", dice.choice(names), ["sh", "-c", script]
            )
        except grpc.aio.AioRpcError as exc:
            if exc.code() is not grpc.StatusCode.NOT_FOUND:  # its image is being removed
                raise


async def run(cri: Cri, again: Again, name: str, image: str, command: list[str]) -> tuple[int, str]:
    """A pod with one container to its end: its exit code, and what it says of it."""
    config = cri.sandbox_config(name, host_network=True)
    sandbox_id = await again("sandbox", partial(cri.run_sandbox, config))
    try:
        container = cri.container_config("c", image, command)
        container_id = await again("create", partial(cri.create, sandbox_id, container, config))
        await again("start", partial(cri.start, container_id))
        while (status := await cri.status(container_id)).state != cri_pb.CONTAINER_EXITED:
            await anyio.sleep(0.2)
        return status.exit_code, f"{status.reason} {status.message}"
    finally:
        await again("remove", partial(cri.remove_sandbox, sandbox_id))


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
