"""Density: many pods on one machine, every service started anew with them, and what is called thousands of times."""

import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from bench.pods import pss_kib
from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri, connect
from devtools.registry import push_busybox, registry
from node.health import trouble
from node.layout import SERVICES
from node.supervisor import STEADY_S
from tests.support.node import TestNode, running_node
from tests.support.streaming import WebSocket
from torture.page import Section, Table

PODS, EXECS, ATTACHES = 250, 1000, 10_000
AT_ONCE = 8
READY_S = 120.0
GOAL_S = 2.0
SETTLE_S, SPARE_FDS = 10.0, 20
CHANNELS = "v5.channel.k8s.io"


@dataclass(frozen=True)
class Figures:
    """What was measured; every one of the calls was answered as it must."""

    pods: int
    made_s: float
    restart_s: dict[str, float]
    """Of each service: from its death until it answered a call that needs it, with all pods there."""
    all_s: float
    """The same of all services killed at once."""
    execs: int
    exec_ms: float
    """Median, `AT_ONCE` at a time."""
    attaches: int
    attach_ms: float
    fds: tuple[int, int]
    """Of the services, before and after the execs and attaches."""
    services_mib: float

    def section(self) -> Section:
        slowest = max(self.restart_s, key=lambda name: self.restart_s[name])
        late = self.all_s > GOAL_S
        rows = [
            ["pods made in, s", f"{self.made_s:.1f}"],
            ["services with them, MiB PSS", f"{self.services_mib:.0f}"],
            [f"killed one by one, ready after at most, s ({slowest})", f"{self.restart_s[slowest]:.2f}"],
            [f"killed at once, ready after, s (goal {GOAL_S:g})", f"{self.all_s:.2f}"],
            [f"{self.execs} execs, {AT_ONCE} at a time, median ms", f"{self.exec_ms:.1f}"],
            [f"{self.attaches} times attached and detached, median ms", f"{self.attach_ms:.1f}"],
            ["descriptors of the services before and after", "{}, {}".format(*self.fds)],
        ]
        return Section(
            ran=f"{self.pods} pods.",
            faults=2 * len(self.restart_s),
            survived=2 * len(self.restart_s),
            worst_s=max(self.all_s, self.restart_s[slowest]),
            lost=[f"ready {self.all_s:.2f} s after all were killed, goal {GOAL_S:g} s"] if late else [],
            tables=[Table(["Measured", "figure"], rows)],
        )


async def measure(pods: int = PODS, execs: int = EXECS, attaches: int = ATTACHES) -> Figures:
    """Do it all on a node of its own.

    Raises:
        AssertionError: an answer was not as it must be.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-density-") as name:
        base = Path(name)
        with registry(base / "registry") as shop, running_node(base / "n") as node:
            image = push_busybox(shop)
            async with connect(node.socket, node.logs) as cri:
                await cri.pull(image)
                began = time.monotonic()
                ids: list[str] = []
                await _many(pods, lambda number: _pod(cri, image, f"dense-{number}", ids))
                made_s = time.monotonic() - began
                restart_s = {service: await _restart(node, cri, [service], pods) for service in SERVICES}
                await anyio.sleep(STEADY_S)  # what has just died is started later
                all_s = await _restart(node, cri, list(SERVICES), pods)
                # what services open to each other once, and to each shim, is no leak
                await _execs(cri, ids, pods)
                await _attaches(cri, ids[0], AT_ONCE)
                before = _fds(node)
                exec_ms = await _execs(cri, ids, execs)
                attach_ms = await _attaches(cri, ids[0], attaches)
                with anyio.move_on_after(SETTLE_S):
                    while _fds(node) > before:
                        await anyio.sleep(0.1)
                mib = sum(pss_kib(node.pid(service)) for service in SERVICES) / 1024
                figures = Figures(
                    pods=pods,
                    made_s=made_s,
                    restart_s=restart_s,
                    all_s=all_s,
                    execs=execs,
                    exec_ms=exec_ms,
                    attaches=attaches,
                    attach_ms=attach_ms,
                    fds=(before, _fds(node)),
                    services_mib=mib,
                )
                await cri.remove_all()
                left = [str(one) for one in await node.differences()]
                if left or figures.fds[1] > before + SPARE_FDS:
                    message = f"left: {left}, and descriptors: {figures.fds}"
                    raise AssertionError(message)
    return figures


async def _many(number: int, one: Callable[[int], Awaitable[object]]) -> None:
    """Make a call so often, `AT_ONCE` at a time."""
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def limited(index: int) -> None:
        async with limiter:
            await one(index)

    async with anyio.create_task_group() as group:
        for index in range(number):
            group.start_soon(limited, index)


async def _pod(cri: Cri, image: str, name: str, ids: list[str]) -> None:
    sandbox = cri.sandbox_config(name, host_network=True)
    config = cri.container_config("c", image, ["cat"], stdin=True)
    container_id = await cri.create(await cri.run_sandbox(sandbox), config, sandbox)
    await cri.start(container_id)
    ids.append(container_id)


async def _restart(node: TestNode, cri: Cri, services: list[str], pods: int) -> float:
    """Kill services; the seconds until they all serve again and all containers are listed as running."""
    died = {service: node.kill(service) for service in services}
    began = time.monotonic()
    with anyio.fail_after(READY_S):
        await _until(lambda: all(node.pid(service) != pid for service, pid in died.items()))
        for service in services:
            while await anyio.to_thread.run_sync(trouble, "grpc", f"{node.run_dir}/{service}.sock"):
                await anyio.sleep(0.01)
        running = cri_pb.ContainerFilter(state=cri_pb.ContainerStateValue(state=cri_pb.CONTAINER_RUNNING))
        request = cri_pb.ListContainersRequest(filter=running)
        listed = await cri.call(cri.runtime.ListContainers, request)
    took = time.monotonic() - began
    if len(listed.containers) != pods:
        message = f"{len(listed.containers)} containers run after {services} were killed, not {pods}"
        raise AssertionError(message)
    return took


async def _until(met: Callable[[], bool]) -> None:
    with anyio.fail_after(READY_S):
        while not _holds(met):
            await anyio.sleep(0.01)


def _holds(met: Callable[[], bool]) -> bool:
    try:
        return met()
    except (OSError, ValueError, KeyError):
        return False  # node.json is being written


def _fds(node: TestNode) -> int:
    return sum(len(os.listdir(f"/proc/{node.pid(service)}/fd")) for service in SERVICES)  # noqa: PTH208


async def _execs(cri: Cri, ids: list[str], number: int) -> float:
    took: list[float] = []

    async def one(index: int) -> None:
        began = time.perf_counter()
        answer = await cri.exec(ids[index % len(ids)], ["sh", "-c", f"echo {index}; exit 5"])
        took.append(1e3 * (time.perf_counter() - began))
        if (answer.exit_code, answer.stdout) != (5, b"%d\n" % index):
            message = f"exec {index}: {answer.exit_code} {answer.stdout!r}"
            raise AssertionError(message)

    await _many(number, one)
    return statistics.median(took)


async def _attaches(cri: Cri, container_id: str, number: int) -> float:
    took: list[float] = []

    async def one(_index: int) -> None:
        began = time.perf_counter()
        request = cri_pb.AttachRequest(container_id=container_id, stdin=True, stdout=True)
        url = (await cri.call(cri.runtime.Attach, request)).url
        await anyio.to_thread.run_sync(partial(_attach, url))
        took.append(1e3 * (time.perf_counter() - began))

    await _many(number, one)
    return statistics.median(took)


def _attach(url: str) -> None:
    WebSocket(url, CHANNELS).close()
