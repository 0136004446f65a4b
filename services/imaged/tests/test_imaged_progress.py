"""Progress of pulls: the forecast, and the events."""

import os
import time
from pathlib import Path

import anyio
import pytest

from common.events.schema import PullProgressed
from imaged.adapters.registry import HttpRegistry
from imaged.adapters.transport import Limits
from imaged.fetching.bandwidth import Bandwidth
from imaged.ports import Credentials
from imaged.progress import LOOK_S, WINDOW_S, Forecast
from services.imaged.tests.conftest import BadRegistry, Node, Tools
from tests.support.eventually import until

pytestmark = pytest.mark.anyio
SIZE, CAP = 3_000_000, 1_000_000


def test_the_time_left_follows_what_came_lately() -> None:
    forecast = Forecast()
    assert forecast.left_s(100.0, 0, 1000) is None
    assert forecast.left_s(101.0, 0, 1000) is None
    assert forecast.left_s(102.0, 100, 900) == pytest.approx(18)
    # at first slow, then fast: the window forgets the beginning
    left = [forecast.left_s(102.0 + second, 100 + second * 1000, 5000) for second in range(1, 21)]
    assert left[-1] == pytest.approx(5)
    assert len(forecast._seen) <= WINDOW_S + 2
    assert forecast.left_s(123.0, 20100, 0) == 0


def test_a_clock_that_stands_and_bytes_that_were_of_no_use_are_no_forecast() -> None:
    forecast = Forecast()
    assert forecast.left_s(1.0, 500, 10) is None
    assert forecast.left_s(1.0, 600, 10) is None
    assert forecast.left_s(2.0, 100, 10) is None


@pytest.fixture
def registry(tmp_path: Path) -> HttpRegistry:
    return HttpRegistry(str(tmp_path / "certs.d"), 6, Limits(), bandwidth=Bandwidth(CAP))


async def pulled(node: Node, name: str) -> list[float | None]:
    forecasts = []
    async for progress in node.images.pull(name, Credentials()):
        forecasts.append(progress.left_s)
    return forecasts


async def test_a_pull_tells_how_far_it_is(node: Node, bad_registry: BadRegistry, tools: Tools) -> None:
    layers = [tools.tar_of({"a": os.urandom(SIZE)}), tools.tar_of({"b": b"b"})]
    made = tools.image_of(layers, compression="none")
    bad_registry.serve(made)
    start = time.monotonic()
    forecasts = await pulled(node, f"{bad_registry.host}/app:v1")
    took_s = time.monotonic() - start
    told = [event for event in await node.events() if isinstance(event, PullProgressed)]
    assert 2 <= len(told) <= took_s / LOOK_S
    done = [event.fetched_bytes for event in told]
    assert done == sorted(set(done))
    size = sum(len(made.blobs[layer["digest"]]) for layer in made.layers)
    assert {(event.id, event.size_bytes, event.layers) for event in told} == {
        (f"{bad_registry.host}/app:v1", size, 2)
    }
    known = [event for event in told if event.left_s >= 0]
    assert known
    for event in known:
        assert event.left_s <= size / CAP + 2
    assert forecasts[-1] == 0
    assert any(left is not None and left > 0 for left in forecasts[:-1])


async def test_nobody_is_told_while_nobody_listens(
    node: Node, bad_registry: BadRegistry, tools: Tools
) -> None:
    node.images._listened = lambda: False
    bad_registry.serve(tools.image_of([tools.tar_of({"a": os.urandom(SIZE // 2)})], compression="none"))
    await pulled(node, f"{bad_registry.host}/app:v1")
    assert not [event for event in await node.events() if isinstance(event, PullProgressed)]


async def test_what_was_here_before_did_not_come(node: Node, bad_registry: BadRegistry, tools: Tools) -> None:
    one, two = (tools.tar_of({name: os.urandom(SIZE // 10)}) for name in "ab")
    bad_registry.serve(tools.image_of([one], compression="none"))
    await pulled(node, f"{bad_registry.host}/one:v1")
    both = tools.image_of([one, two], compression="none")
    bad_registry.serve(both)
    node.layers.gate = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(pulled, node, f"{bad_registry.host}/both:v1")
        await until(
            lambda: any(s.state == "unpacking" for p in node.images.pulls() for s in p.layers), "an unpacking"
        )
        (operation,) = node.images._operations.values()
        assert operation.came_bytes() == len(two)
        assert operation.bytes() == (len(one) + len(two), len(one) + len(two))
        node.layers.gate.set()
