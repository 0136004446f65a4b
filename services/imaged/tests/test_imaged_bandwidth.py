"""The cap over all downloads."""

import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import anyio
import pytest

from imaged.adapters.registry import HttpRegistry
from imaged.adapters.transport import Limits
from imaged.fetching.bandwidth import BURST_S, Bandwidth
from imaged.fetching.interruptible import Stop
from imaged.ports import Credentials
from services.imaged.tests.conftest import BadRegistry, Node, Tools
from tests.support.pace import patience

pytestmark = pytest.mark.anyio
CAP = 2_000_000
LARGE, SMALL = 4_000_000, 10_000


@pytest.fixture
def registry(tmp_path: Path) -> HttpRegistry:
    return HttpRegistry(str(tmp_path / "certs.d"), 6, Limits(), bandwidth=Bandwidth(CAP))


def test_what_an_idle_node_takes_at_once_costs_no_time() -> None:
    bandwidth = Bandwidth(CAP)
    start = time.monotonic()
    bandwidth.spend(int(CAP * BURST_S), Stop())
    assert time.monotonic() - start < BURST_S / 2
    bandwidth.spend(int(CAP * 0.2), Stop())
    assert time.monotonic() - start >= 0.15


def test_threads_share_the_cap() -> None:
    bandwidth = Bandwidth(10_000_000)

    def work() -> None:
        for _ in range(10):
            bandwidth.spend(200_000, Stop())

    threads = [threading.Thread(target=work) for _ in range(4)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # 8 MB of which 2.5 MB were free
    assert time.monotonic() - start >= 0.5


def test_a_wait_ends_when_it_is_stopped() -> None:
    bandwidth, stop = Bandwidth(1), Stop()
    threading.Timer(0.1, stop.set).start()
    start = time.monotonic()
    bandwidth.spend(1 << 20, stop)
    assert time.monotonic() - start < patience(10)


@pytest.mark.parametrize(
    ("rate", "chunk"), [(0, 1 << 20), (1000, 16 << 10), (10_000_000, 200_000), (1 << 40, 1 << 20)]
)
def test_pieces_are_small_against_the_cap(rate: int, chunk: int) -> None:
    assert Bandwidth(rate).chunk_bytes == chunk


async def test_pulls_stay_under_the_cap_and_a_small_one_is_not_stalled(
    node: Node, bad_registry: BadRegistry, tools: Tools
) -> None:
    large = tools.image_of([tools.tar_of({name: name.encode() * LARGE}) for name in "ab"], compression="none")
    small = tools.image_of([tools.tar_of({"c": b"c" * SMALL})])
    begun = threading.Event()

    def answer(h: BaseHTTPRequestHandler) -> None:
        image = small if "/small/" in h.path else large
        if "/manifests/" in h.path:
            kinds = {"Content-Type": image.media_type, "Docker-Content-Digest": image.digest}
            tools.reply(h, 200, image.manifest, kinds)
            return
        begun.set()
        tools.reply(h, 200, image.blobs[h.path.rpartition("/")[2]])

    bad_registry.answer = answer
    took: dict[str, float] = {}

    async def pull(name: str) -> None:
        start = time.monotonic()
        async for _ in node.images.pull(f"{bad_registry.host}/{name}/app:v1", Credentials()):
            pass
        took[name] = time.monotonic() - start

    async with anyio.create_task_group() as group:
        group.start_soon(pull, "large")
        await anyio.to_thread.run_sync(begun.wait)
        group.start_soon(pull, "small")
    total = 2 * LARGE + SMALL
    assert took["large"] >= total / CAP - BURST_S - 0.2
    assert took["small"] < took["large"] / 2
