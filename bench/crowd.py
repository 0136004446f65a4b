"""Pods made at once against one after the other, and lists over many containers."""

import statistics
import time
from collections.abc import Awaitable, Callable

import anyio

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri

AT_ONCE = 16
ROUNDS = 3
CONTAINERS = 100
CALLS = 30


async def pods_per_second(cri: Cri, image: str) -> tuple[float, float]:
    """Pods brought to RUNNING in a second, at once and one after the other; medians of rounds in turn."""
    together, alone = [], []
    for number in range(ROUNDS):
        names = [f"crowd-{number}-{index}" for index in range(AT_ONCE)]
        start = time.perf_counter()
        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(_pod, cri, image, name)
        together.append(AT_ONCE / (time.perf_counter() - start))
        await cri.remove_all()
        start = time.perf_counter()
        for name in names:
            await _pod(cri, image, f"{name}-alone")
        alone.append(AT_ONCE / (time.perf_counter() - start))
        await cri.remove_all()
    return statistics.median(together), statistics.median(alone)


async def _pod(cri: Cri, image: str, name: str) -> str:
    sandbox = cri.sandbox_config(name, host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    container_id = await cri.create(sandbox_id, cri.container_config("c", image, ["sleep", "1000"]), sandbox)
    await cri.start(container_id)
    return container_id


async def lists(cri: Cri, image: str) -> dict[str, float]:
    """Milliseconds of ListContainers and ContainerStatus with 100 containers, in 10 sandboxes and not started."""
    container_id = ""
    for number in range(CONTAINERS // 10):
        sandbox = cri.sandbox_config(f"lists-{number}", host_network=True)
        sandbox_id = await cri.run_sandbox(sandbox)
        for index in range(10):
            config = cri.container_config(f"c{index}", image, ["sleep", "1000"])
            container_id = await cri.create(sandbox_id, config, sandbox)

    async def all_of_them() -> None:
        answer = await cri.call(cri.runtime.ListContainers, cri_pb.ListContainersRequest())
        assert len(answer.containers) == CONTAINERS

    found = {
        "ListContainers": await _median_ms(all_of_them),
        "ContainerStatus": await _median_ms(lambda: cri.status(container_id)),
    }
    await cri.remove_all()
    return found


async def _median_ms(call: Callable[[], Awaitable[object]]) -> float:
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        await call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)
