"""`./dev bench --against REVISION`: this code and an older one in turn, each on a node of its own on this machine."""

import statistics
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from bench import bare, logs, pods, pulls
from bench.figure import Figure
from bench.image import SHAPES, push
from devtools.cri import Cri, connect
from devtools.older import programs_of
from devtools.registry import push_busybox, registry
from tests.support.node import PROGRAMS, running_node

PODS, LOGS = 60, 10
THIS, OLDER = "this", "older"
GOAL, GOAL_OF_RATES = "1.05 x", "at least 0.95 x"


async def measure(revision: str) -> list[Figure]:
    """Pods, logs and pulls of both; each row has this code's figure and the older one's."""
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slipway-bench-")))
        programs = {THIS: PROGRAMS, OLDER: stack.enter_context(programs_of(revision))}
        shop = stack.enter_context(registry(base / "registry"))
        nodes = {
            name: stack.enter_context(running_node(base / name, programs=folder))
            for name, folder in programs.items()
        }
        image = push_busybox(shop)
        async with AsyncExitStack() as connections:
            both: dict[str, Cri] = {}
            for name, node in nodes.items():
                both[name] = await connections.enter_async_context(connect(node.socket, node.logs))
                await both[name].pull(image)
            figures = [await _pods(both, image, revision, host_network=host) for host in (True, False)]
            figures.append(await _logs(both, image, revision))
            contenders = [pulls.CriContender(name, cri, []) for name, cri in both.items()]
            for shape in SHAPES:
                took = await pulls.compare(contenders, push(shop, shape))
                seconds = {name: statistics.median(one.pull_s) for name, one in took.items()}
                figures.append(_figure(f"cold pull, {shape.title}", seconds, "s", revision, GOAL))
    return figures


async def _pods(both: dict[str, Cri], image: str, revision: str, *, host_network: bool) -> Figure:
    took: dict[str, list[float]] = {name: [] for name in both}
    for number in range(pods.WARM + PODS):
        for name, cri in both.items():
            time.sleep(bare.REST_S)
            took[name].append(await pods.ready(cri, image, f"bench-{number}", host_network=host_network))
    medians = {name: statistics.median(times[pods.WARM :]) for name, times in took.items()}
    kind = "host network" if host_network else "CNI bridge"
    return _figure(f"pod ready, {kind}", medians, "ms", revision, GOAL)


async def _logs(both: dict[str, Cri], image: str, revision: str) -> Figure:
    rates: dict[str, list[float]] = {name: [] for name in both}
    for number in range(LOGS):
        for name, cri in both.items() if number % 2 else reversed(both.items()):
            rates[name].append(logs.MEGABYTES / await logs.logged(cri, image, number))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return _figure("log, lines of 100 bytes", medians, "MB/s", revision, GOAL_OF_RATES)


def _figure(name: str, found: dict[str, float], unit: str, revision: str, goal: str) -> Figure:
    return Figure(name, found[THIS], unit, revision, found[OLDER], goal)
