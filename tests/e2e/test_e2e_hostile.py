"""Callers, clients and images that mean harm: each is refused by name or contained, and the services stay up."""

import resource
import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri
from devtools.registry import Registry, busybox_layer
from tests.e2e.test_e2e_pods import pod
from tests.e2e.test_e2e_streaming import exec_url
from tests.support.eventually import eventually
from tests.support.node import TestNode
from tests.support.streaming import WebSocket

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]
CODE = grpc.StatusCode
LONG = "x" * 65536
SPARE_DESCRIPTORS = 8


async def test_an_id_of_any_length_is_not_found(cri: Cri) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="not found") as caught:
        await cri.status(LONG)
    assert caught.value.code() is CODE.NOT_FOUND


async def test_a_timeout_of_ages_and_many_execs_at_once_are_served(cri: Cri, busybox: str) -> None:
    container_id = (await pod(cri, "ages", busybox, ["sleep", "1000"]))[1]
    assert (await cri.exec(container_id, ["true"], 2**63 - 1)).exit_code == 0
    codes = []

    async def run() -> None:
        codes.append((await cri.exec(container_id, ["true"], 60)).exit_code)

    async with anyio.create_task_group() as group:
        for _ in range(90):
            group.start_soon(run)
    assert codes == [0] * 90


async def test_no_quota_as_a_kubelet_with_exclusive_processors_says_it(cri: Cri, busybox: str) -> None:
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("exclusive", host_network=True)
    config = cri.container_config("c", busybox, ["sleep", "1000"])
    config.linux.resources.cpu_quota = -1
    container_id = await cri.create(await cri.run_sandbox(sandbox), config, sandbox)
    await cri.start(container_id)
    assert (await cri.status(container_id)).state == cri_pb.CONTAINER_RUNNING


@pytest.mark.parametrize("config", [[1], {"Env": "x"}, {"Volumes": {f"/v{n}": {} for n in range(1000)}}])
async def test_an_image_with_a_wrong_config_is_refused(cri: Cri, shop: Registry, config: object) -> None:
    reference = shop.push("hostile/config", [busybox_layer()], config)
    await cri.pull(reference)
    sandbox = cri.sandbox_config("config", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    with pytest.raises(grpc.aio.AioRpcError, match=r"image.config") as caught:
        await cri.create(sandbox_id, cri.container_config("c", reference, ["true"]), sandbox)
    assert caught.value.code() is CODE.INVALID_ARGUMENT


async def test_clients_that_take_all_descriptors_end_nobodys_stream(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    container_id = (await pod(cri, "crowd", busybox, ["sleep", "1000"]))[1]
    pid = node.pid("crid")
    url = urlsplit(await exec_url(cri, container_id, ["true"]))
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    held = Path(f"/proc/{pid}/fd")
    with ExitStack() as crowd:
        most = len(list(held.iterdir())) + SPARE_DESCRIPTORS
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, before[1]))
        try:
            for _ in range(2 * SPARE_DESCRIPTORS):
                client = crowd.enter_context(socket.create_connection((url.hostname, url.port), 10))
                client.sendall(b"GET /")
            eventually(lambda: len(list(held.iterdir())) >= most)
            assert (await cri.call(cri.runtime.Version, cri_pb.VersionRequest())).runtime_name == "slipway"
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    served = await exec_url(cri, container_id, ["echo", "still here"])
    with await anyio.to_thread.run_sync(WebSocket, served, "v5.channel.k8s.io") as stream:
        assert b"still here" in await anyio.to_thread.run_sync(stream.receive)
    assert node.pid("crid") == pid
