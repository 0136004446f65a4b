"""Containers that start before their image is here, and what becomes of them when things go wrong."""

import json
import os
import random
import signal
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from common.clients.imaged import ImagedClient
from common.clients.snapshotd import SnapshotdClient
from devtools.cri import Cri, connect
from devtools.registry import Registry, busybox_entries, digest, directory, file
from tests.support import estargz, zstdchunked
from tests.support.eventually import until
from tests.support.link import Link, link
from tests.support.node import TestNode, running_node
from tests.support.pace import patience

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse"),
]
BIG_BYTES = 8 << 20


def noise(seed: int, size: int = BIG_BYTES) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311


@dataclass(frozen=True)
class Pushed:
    """An image of busybox, and of bytes that nobody needs to start."""

    name: str
    layer: str
    """The only one's digest."""
    late: tuple[int, int]
    """Where in its blob the file is that is not needed to start."""
    sum: str
    """That file's."""


def push(shop: Registry, name: str, seed: int) -> Pushed:
    late = noise(seed)
    items = [*busybox_entries(), directory("data"), file("data/small", b"small\n"), file("data/late", late)]
    layer = estargz.layer(items, chunk_bytes=1 << 20, level=0)
    shop.push(name, [layer], {"Env": ["PATH=/bin"]})
    start = layer.blob.index(late[:64])
    margin = 256 << 10  # what is brought beside what was asked for
    held = (start + margin, start + len(late) - margin)
    return Pushed(name, digest(layer.blob), held, digest(late)[7:])


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNode]:
    settings = {
        "SLIPWAY_IMAGED_LAZY": "on",
        "SLIPWAY_IMAGED_LAZY_FILL_DELAY_S": "0.5",
        "SLIPWAY_SNAPSHOTD_LAZY_READ_TIMEOUT_S": str(patience(6)),
    }
    with running_node(tmp_path_factory.mktemp("lazy"), settings=settings) as running:
        yield running


@pytest.fixture
def slow(shop: Registry) -> Iterator[Link]:
    with link(shop.address) as made:
        yield made


@pytest.fixture
async def cri(node: TestNode) -> AsyncIterator[Cri]:
    async with connect(node.socket, node.logs) as client:
        yield client
        await client.remove_all()


async def started(cri: Cri, image: str, name: str) -> str:
    sandbox = cri.sandbox_config(name, host_network=True)
    config = cri.container_config("c", image, ["sleep", "1000"])
    container_id = await cri.create(await cri.run_sandbox(sandbox), config, sandbox)
    await cri.start(container_id)
    return container_id


async def whole(node: TestNode, image: str) -> None:
    client = ImagedClient(f"{node.run_dir}/imaged.sock")

    async def none_comes() -> bool:
        return not (await client.get(image)).coming

    await until(none_comes, "the whole image", within_s=60)
    await client.close()


def blob(node: TestNode, name: str) -> Path:
    return node.data_dir / "imaged/blobs" / name.replace(":", "/")


def servers(node: TestNode, blob_digest: str) -> dict[str, int]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(blob_digest in word and str(node.run_dir) in word for word in words):
            found["keeper" if "lazy.keeper" in words[4] else "server"] = int(path.parent.name)
    return found


async def sum_of(cri: Cri, container: str, path: str) -> str:
    answer = await cri.exec(container, ["sha256sum", path])
    assert not answer.exit_code, answer
    return answer.stdout.decode().split()[0]


async def until_nobody_serves(node: TestNode, layer: str) -> None:
    await until(lambda: not servers(node, layer), "the server's end", within_s=60)


async def test_a_pod_runs_before_its_image_is_here_and_the_rest_comes(
    shop: Registry, node: TestNode, slow: Link, cri: Cri
) -> None:
    pushed = push(shop, "lazy/first", 1)
    layer, slow.held = pushed.layer, pushed.late
    image = f"{slow.address}/{pushed.name}"
    await cri.pull(image)
    container = await started(cri, image, "first")
    answer = await cri.exec(container, ["cat", "/data/small"])
    assert answer.stdout == b"small\n"
    assert not blob(node, layer).exists()
    client = ImagedClient(f"{node.run_dir}/imaged.sock")
    assert list((await client.get(image)).coming) == [layer]
    slow.held = None
    assert await sum_of(cri, container, "/data/late") == pushed.sum
    await whole(node, image)
    assert blob(node, layer).stat().st_size > BIG_BYTES
    snapshotd = SnapshotdClient(f"{node.run_dir}/snapshotd.sock")
    [held] = await snapshotd.list_layers((await client.get(image)).diff_ids)
    assert not held.coming
    assert held.size_bytes > BIG_BYTES
    # who was there before goes on; who comes now is served by nobody
    assert (await cri.exec(container, ["cat", "/data/small"])).stdout == b"small\n"
    assert servers(node, layer)
    await cri.remove_all()
    await until_nobody_serves(node, layer)
    container = await started(cri, image, "second")
    assert await sum_of(cri, container, "/data/late") == pushed.sum
    assert not servers(node, layer)
    for each in (client, snapshotd):
        await each.close()


async def test_an_image_that_skopeo_made_zstd_chunked_runs_before_it_is_here(
    shop: Registry, node: TestNode, slow: Link, cri: Cri
) -> None:
    plain = push(shop, "lazy/plain", 6)
    zstdchunked.copy(f"{shop.address}/{plain.name}", f"{shop.address}/lazy/chunked")
    image = f"{slow.address}/lazy/chunked"
    [layer] = manifest(shop, "lazy/chunked")["layers"]
    assert layer["mediaType"] == zstdchunked.MEDIA_TYPE
    slow.held = (layer["size"] // 2, layer["size"] - (1 << 20))  # of the late file, which is nearly all
    await cri.pull(image)
    container = await started(cri, image, "chunked")
    assert (await cri.exec(container, ["cat", "/data/small"])).stdout == b"small\n"
    assert "server" in servers(node, layer["digest"])
    assert not blob(node, layer["digest"]).exists()
    slow.held = None
    assert await sum_of(cri, container, "/data/late") == plain.sum
    await whole(node, image)
    assert blob(node, layer["digest"]).stat().st_size == layer["size"]
    container = await started(cri, image, "unpacked")
    assert await sum_of(cri, container, "/data/late") == plain.sum
    await cri.remove_all()
    await until_nobody_serves(node, layer["digest"])


def manifest(shop: Registry, name: str) -> dict[str, Any]:
    url = f"http://{shop.address}/v2/{name}/manifests/latest"
    asked = urllib.request.Request(url, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
    with urllib.request.urlopen(asked, timeout=patience(10)) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


async def test_whoever_is_killed_a_running_container_reads_on(
    shop: Registry, node: TestNode, slow: Link, cri: Cri
) -> None:
    pushed = push(shop, "lazy/kills", 2)
    layer, slow.held = pushed.layer, pushed.late
    image = f"{slow.address}/{pushed.name}"
    await cri.pull(image)
    container = await started(cri, image, "kills")
    before = servers(node, layer)
    found: list[str] = []

    async def read() -> None:
        found.append(await sum_of(cri, container, "/data/late"))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        asked = len(slow.ranged)

        await until(lambda: len(slow.ranged) > asked, "the read to ask the registry", within_s=60)
        os.kill(before["server"], signal.SIGKILL)
        for service in ("snapshotd", "imaged"):
            node.kill(service)
        slow.held = None
    assert found == [pushed.sum]
    after = servers(node, layer)
    assert after["keeper"] == before["keeper"]
    assert after["server"] != before["server"]
    await whole(node, image)
    assert blob(node, layer).exists()
    await cri.remove_all()
    await until_nobody_serves(node, layer)


async def test_without_its_registry_a_read_fails_in_time_and_later_goes_on(
    shop: Registry, node: TestNode, slow: Link, cri: Cri
) -> None:
    pushed = push(shop, "lazy/cut", 3)
    slow.held = pushed.late
    image = f"{slow.address}/{pushed.name}"
    await cri.pull(image)
    container = await started(cri, image, "cut")
    await sum_of(cri, container, "/bin/busybox")  # what runs is here, all else not
    slow.cut = True
    began = time.monotonic()
    answer = await cri.exec(container, ["sha256sum", "/data/late"])
    assert time.monotonic() - began < patience(30)
    assert answer.exit_code
    assert b"Input/output error" in answer.stderr
    told = node.slipway("events", "--since", "1h", "--until-now")
    assert "layer_unread" in told.stdout, told
    slow.cut, slow.held = False, None
    assert await sum_of(cri, container, "/data/late") == pushed.sum
    await whole(node, image)
    assert blob(node, pushed.layer).exists()


async def test_wrong_bytes_are_not_read_and_mark_the_image(
    shop: Registry, node: TestNode, slow: Link, cri: Cri
) -> None:
    pushed = push(shop, "lazy/wrong", 4)
    image = f"{slow.address}/{pushed.name}"
    slow.held = pushed.late
    await cri.pull(image)
    container = await started(cri, image, "wrong")
    slow.lie, slow.held = (noise(4)[5 << 20 :][:16], bytes(16)), None
    answer = await cri.exec(container, ["cat", "/data/late"])
    assert answer.exit_code
    assert b"Input/output error" in answer.stderr
    client = ImagedClient(f"{node.run_dir}/imaged.sock")

    async def marked() -> bool:
        return pushed.layer in (await client.get(image)).damage

    await until(marked, "the layer to be marked", within_s=60)
    assert not blob(node, pushed.layer).exists()
    told = node.slipway("events", "--since", "1h", "--until-now")
    assert "layer_damaged" in told.stdout, told
    why = node.slipway("why", container)
    assert "reads of it fail" in why.stdout, why
    assert (await cri.exec(container, ["cat", "/data/small"])).stdout == b"small\n"
    await client.close()


async def test_an_image_that_is_removed_leaves_nothing(
    shop: Registry, node: TestNode, slow: Link, cri: Cri
) -> None:
    pushed = push(shop, "lazy/removed", 5)
    layer, slow.held = pushed.layer, pushed.late
    image = f"{slow.address}/{pushed.name}"
    await cri.pull(image)
    assert servers(node, layer)
    client = ImagedClient(f"{node.run_dir}/imaged.sock")
    await client.remove(image)
    assert not list((node.data_dir / "imaged/lazy").glob(f"*{layer[7:]}"))
    assert not blob(node, layer).exists()
    assert not [p for p in (node.data_dir / "imaged/ingest").glob(f"*{layer[7:]}*") if p.stat().st_blocks]
    await until_nobody_serves(node, layer)
    await client.close()


@pytest.mark.parametrize("why", ["no ranges", "no annotation", "a table that lies"])
async def test_what_cannot_come_later_is_pulled_as_always(
    shop: Registry, node: TestNode, slow: Link, cri: Cri, why: str
) -> None:
    items = [*busybox_entries(), file("data", noise(6))]
    lie = (
        (lambda toc: toc["entries"].append(toc["entries"][0]))
        if why == "a table that lies"
        else (lambda _: None)
    )
    layer = estargz.layer(items, level=0, lie=lie)
    if why == "no annotation":
        layer.annotations.clear()
    name = f"lazy/{why.replace(' ', '-')}"
    shop.push(name, [layer], {"Env": ["PATH=/bin"]})
    slow.ranges = why != "no ranges"
    image = f"{slow.address}/{name}"
    await cri.pull(image)
    assert blob(node, digest(layer.blob)).exists()
    assert not servers(node, digest(layer.blob))
    container = await started(cri, image, "always")
    assert await sum_of(cri, container, "/data") == digest(noise(6))[7:]
