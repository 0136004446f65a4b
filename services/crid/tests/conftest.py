"""crid, imaged and snapshotd as processes of one test session, with Redis, NATS and a registry."""

import importlib.util
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from common.api.cri.v1 import api_pb2_grpc as rpc
from common.sys.mounts import unmount_below
from devtools.registry import Registry, push_busybox, registry
from tests.support.brokers import nats_server, redis_server
from tests.support.service import started

STOP_S = 20


@dataclass
class Front:
    """A crid with what it needs but runtimed."""

    socket: str
    busybox: str
    registry: str
    shop: Registry


@pytest.fixture(scope="session")
def front() -> Iterator[Front]:
    if os.geteuid() != 0:
        pytest.skip("snapshotd needs root")
    for name in ("imaged", "snapshotd"):
        if importlib.util.find_spec(f"{name}.main") is None:
            pytest.skip(f"{name} is not installed")
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slipway-crid-")))
        redis = stack.enter_context(redis_server(root / "redis"))
        nats = stack.enter_context(nats_server(root / "nats"))
        shop = stack.enter_context(registry(root / "registry"))
        stack.callback(unmount_below, root)
        settings = {"run_dir": str(root / "run"), "data_dir": str(root / "data"), "node": "n"}
        settings |= {"redis_url": redis.url, "nats_url": nats.url}
        for name in ("snapshotd", "imaged", "crid"):
            stack.callback(_end, started(name, root / f"{name}.log", settings))
        yield Front(str(root / "run" / "crid.sock"), push_busybox(shop), shop.address, shop)


def _end(service: "subprocess.Popen[bytes]") -> None:
    service.terminate()
    assert service.wait(STOP_S) == 0


@pytest.fixture
async def channel(front: Front) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(
        f"unix:{front.socket}", options=[("grpc.default_authority", "localhost")]
    ) as opened:
        await opened.channel_ready()
        yield opened


@pytest.fixture
def images(channel: grpc.aio.Channel) -> "rpc.ImageServiceAsyncStub":
    return rpc.ImageServiceStub(channel)


@pytest.fixture
def runtime(channel: grpc.aio.Channel) -> "rpc.RuntimeServiceAsyncStub":
    return rpc.RuntimeServiceStub(channel)
