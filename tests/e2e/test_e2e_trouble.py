"""A full disk: what needs room is refused by name and leaves nothing; what runs goes on."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from common.errors import UnavailableError
from common.records import redis
from devtools import registry
from devtools.cri import Cri, connect
from devtools.registry import Registry
from tests.e2e.test_e2e_pods import pod
from tests.support import refusals
from tests.support.eventually import eventually, until
from tests.support.node import TestNode, running_node

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]
MIB = 1 << 20
LAYER_MIB = 24
Fill = Callable[[int], Path]
"""Fills the node's disk but for so many bytes; gives the file that does."""


@pytest.fixture(scope="module")
def small(shop: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNode]:
    """A node whose data and pod logs are on a filesystem of 192 MiB."""
    data = tmp_path_factory.mktemp("small")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192m", "slipway-test", data], check=True, timeout=20)
    try:
        with running_node(data) as running:
            yield running
    finally:
        subprocess.run(["umount", data], check=True, timeout=20)


@pytest.fixture
async def cri(small: TestNode) -> AsyncIterator[Cri]:
    async with connect(small.socket, small.logs) as client:
        yield client
        await accepted(client.remove_all)


async def accepted(call: Callable[[], Awaitable[object]]) -> None:
    """Make a call until it is no more UNAVAILABLE: Redis tries a disk that was full once a second."""

    async def answered() -> bool:
        try:
            await call()
        except grpc.aio.AioRpcError as exc:
            if exc.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True

    await until(answered, "Redis to write again")


@pytest.fixture
def fill(small: TestNode) -> Iterator[Fill]:
    """Fills the node's disk and then frees some bytes of it; emptied at the end."""
    filler = small.data_dir / "filler"

    def leave(free: int) -> Path:
        with filler.open("wb", buffering=0) as file, suppress(OSError):  # others write at the same time
            while True:
                file.write(bytes(MIB))
        os.truncate(filler, filler.stat().st_size - free)
        return filler

    yield leave
    filler.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def big(shop: Registry) -> str:
    """An image whose one layer is as big packed as unpacked."""
    layer = registry.layer([registry.file("big", os.urandom(LAYER_MIB * MIB))])
    return shop.push("demo/big", [layer], {"Cmd": ["/big"]})


@pytest.mark.parametrize("free_mib", [LAYER_MIB // 2, LAYER_MIB * 3 // 2], ids=["download", "unpack"])
async def test_a_pull_to_a_full_disk_leaves_nothing(
    cri: Cri, small: TestNode, busybox: str, big: str, fill: Fill, free_mib: int
) -> None:
    _, other = await pod(cri, f"bystander-{free_mib}", busybox, ["sleep", "600"])
    before = small.leftovers()
    filler = fill(free_mib * MIB)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.pull(big)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, refusals.told(caught)
    assert str(small.data_dir) in refusals.told(caught)
    assert (await cri.status(other)).state == cri_pb.CONTAINER_RUNNING
    eventually(lambda: small.leftovers() == before, what="the trash is empty")
    images = (await cri.call(cri.images.ListImages, cri_pb.ListImagesRequest())).images
    assert not [image for image in images if big in image.repo_tags]
    filler.unlink()
    await cri.pull(big)
    await cri.call(cri.images.RemoveImage, cri_pb.RemoveImageRequest(image=cri_pb.ImageSpec(image=big)))
    assert await small.differences() == []


async def test_a_container_on_a_full_disk_is_refused_and_leaves_nothing(
    cri: Cri, small: TestNode, busybox: str, fill: Fill
) -> None:
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("full", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    before = small.leftovers()
    config = cri.container_config("c", busybox, ["true"])
    filler = fill(0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.create(sandbox_id, config, sandbox)
    if (
        caught.value.code() is grpc.StatusCode.UNAVAILABLE
    ):  # the record comes first, or Redis had no need to write
        assert "(Redis) refuses" in refusals.told(caught)
    else:
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, refusals.told(caught)
    assert "No space left on device" in refusals.told(caught)
    filler.unlink()
    # where Redis took the record and then refused to let it go, the next attempt takes it over
    assert small.leftovers() | {"records": []} == before | {"records": []}
    await accepted(partial(cri.create, sandbox_id, config, sandbox))
    assert len((await cri.call(cri.runtime.ListContainers, cri_pb.ListContainersRequest())).containers) == 1
    # a record's copy that had no room is written within the minute
    assert await small.differences("record") == []


async def test_a_full_disk_never_blocks_a_container_that_logs(
    cri: Cri, small: TestNode, busybox: str, fill: Fill
) -> None:
    script = "i=0; while :; do i=$((i+1)); echo line $i; echo $i >/dev/shm/n; done"
    _, container_id = await pod(cri, "chatty", busybox, ["sh", "-c", script])
    log = small.logs / "chatty" / "c.log"
    eventually(lambda: log.stat().st_size > 0, within_s=10, what="a first line")
    filler = fill(0)

    async def count() -> int:
        return int((await cri.exec(container_id, ["cat", "/dev/shm/n"])).stdout or 0)

    first = await count()

    async def went_on() -> bool:
        return await count() >= first + 20000  # more than a pipe and its shim can hold

    await until(went_on, "the container to go on")
    stuck = log.stat().st_size
    filler.unlink()
    eventually(lambda: log.stat().st_size > stuck, within_s=20, what="lines after the disk has room")
    assert (await cri.status(container_id)).state == cri_pb.CONTAINER_RUNNING
    assert await small.differences() == []


@pytest.mark.parametrize("died", [(), ("runtimed", "redis")], ids=["", "of-a-node-that-began-anew"])
async def test_a_pod_that_filled_the_disk_is_ended_and_its_room_is_given_back(
    cri: Cri, small: TestNode, busybox: str, fill: Fill, died: tuple[str, ...]
) -> None:
    """As a kubelet evicts it: nobody else makes room."""
    sandbox_id, container_id = await pod(
        cri,
        f"glutton-{len(died)}",
        busybox,
        ["sh", "-c", "while :; do cat /dev/zero >>/big; sleep 0.01; done"],
    )
    eventually(lambda: shutil.disk_usage(small.data_dir).free < MIB, within_s=60, what="a full disk")
    held = fill(0)
    for name in died:
        small.kill(name)
    client = await redis.connect(f"unix://{small.run_dir}/redis.sock")

    async def appends(wanted: bool) -> bool:
        return await redis.appends(client) is wanted

    await until(partial(appends, False), "Redis to go on without its file", but=UnavailableError)
    await accepted(partial(cri.stop, container_id))
    status = await cri.status(container_id)
    assert (status.state, status.exit_code) == (cri_pb.CONTAINER_EXITED, 137)
    await cri.call(cri.runtime.StopPodSandbox, cri_pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    request = cri_pb.RemoveImageRequest(image=cri_pb.ImageSpec(image=busybox))
    await cri.call(cri.images.RemoveImage, request)
    assert shutil.disk_usage(small.data_dir).free < 4 * MIB
    await cri.remove(container_id)
    await cri.remove_sandbox(sandbox_id)
    held.unlink()
    await until(partial(appends, True), "Redis to write its file again")
    await client.aclose()
    assert await small.differences() == []
