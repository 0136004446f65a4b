"""`./dev bench [--only GROUP… | --against REVISION]`: ratios against the floor and a named peer, in one run; table and JSON."""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import anyio

from bench import against, bare, command, crowd, dashboard, lazy, logs, pods, pulls
from bench.figure import Figure
from bench.image import SHAPES, push
from common.errors import SlipwayError
from devtools.cri import Cri, connect
from devtools.registry import Registry, push_busybox, registry
from tests.support.node import TestNode, running_node

GROUPS = ("pods", "cni", "exec", "crowd", "lists", "idle", "logs", "pull", "ps", "dashboard", "lazy")
RESULTS = Path(__file__).parent / "results"


async def measure(chosen: set[str]) -> list[Figure]:
    """All figures of the chosen groups."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as name:
        base = Path(name)
        with registry(base / "registry") as shop, running_node(base / "n") as node:
            image = push_busybox(shop)
            async with connect(node.socket, node.logs) as cri:
                await cri.pull(image)
                figures += await _pods(chosen, cri, node, image, base)
                if "dashboard" in chosen:
                    figures += _dashboard(await dashboard.measure(cri, image, node, base))
                if "pull" in chosen:
                    figures += await _pulls(cri, node, shop, base)
        if "lazy" in chosen:
            start = await lazy.measure(base / "lazy")
            image = "2 GB image, 100 Mbit/s"
            figures += [
                Figure(f"{image}: bytes before start", start.share * 100, "%", "goal", 10, "1 x"),
                Figure(f"{image}: start", start.seconds, "s", "all its bytes", start.whole_s, "0.1 x"),
            ]
    return figures


async def _pods(chosen: set[str], cri: Cri, node: TestNode, image: str, base: Path) -> list[Figure]:
    figures = []
    if chosen & {"pods", "cni", "exec"}:
        bundle = await pods.bundle_of(cri, image, node.run_dir, base / "bundle")
        figures += await _against_bare(chosen, cri, node, image, bundle)
    if "crowd" in chosen:
        together, alone = await crowd.pods_per_second(cri, image)
        figures.append(
            Figure(f"{crowd.AT_ONCE} pods at once", together, "/s", "one by one", alone, "at least 1.2 x")
        )
    if "logs" in chosen:
        ours, floor = await logs.throughput(cri, image, base)
        figures.append(
            Figure("log, lines of 100 bytes", ours, "MB/s", "cat to a file", floor, "at least 100 MB/s")
        )
    if "lists" in chosen:
        for call, took in (await crowd.lists(cri, image)).items():
            figures.append(Figure(f"{call}, {crowd.CONTAINERS}", took, "ms", "goal", 5, "1 x"))
    if "ps" in chosen:
        took = await command.ps(cri, image, node.run_dir)
        figures.append(Figure("slipway ps, start to end", took, "ms", "goal", 150, "1 x"))
    if "idle" in chosen:
        found = await pods.idle(cri, image, node.run_dir)
        figures.append(Figure("shim, PSS", found["shim_mib"], "MiB", "goal", 0.8, "1 x"))
        figures.append(
            Figure("services at 50 pods without opsd, PSS", found["services_mib"], "MiB", "goal", 300, "1 x")
        )
        figures.append(Figure("ListContainerStats, 50", found["list_stats_ms"], "ms", "goal", 40, "1 x"))
    return figures


async def _pulls(cri: Cri, node: TestNode, shop: Registry, base: Path) -> list[Figure]:
    figures = []
    ours = pulls.CriContender("slipway", cri, [node.pid("imaged"), node.pid("snapshotd")])
    copied = pulls.Copied(base / "copied")
    async with pulls.containerd(base / "containerd") as containerd:
        for shape in SHAPES:
            found = await pulls.compare([ours, containerd, copied], push(shop, shape))
            mine, theirs, others = (found[each.name] for each in (ours, containerd, copied))
            pull, remove = pulls.median(mine.pull_s), pulls.median(mine.remove_ms)
            peer_s, peer_ms = pulls.median(theirs.pull_s), pulls.median(theirs.remove_ms)
            title = f"cold pull, {shape.title}"
            figures += [
                Figure(title, pull, "s", containerd.name, peer_s, shape.goal),
                Figure(title, pull, "s", copied.name, pulls.median(others.pull_s), "below 1 x"),
                Figure("  imaged + snapshotd, peak PSS", mine.memory_mib, "MiB", "goal", 150, "1 x"),
                Figure("  the same", mine.memory_mib, "MiB", containerd.name, theirs.memory_mib, ""),
                Figure("  removal", remove, "ms", containerd.name, peer_ms, "0.5 x"),
            ]
    return figures


def _dashboard(found: dict[str, float]) -> list[Figure]:
    at = f"{dashboard.CONTAINERS} containers"
    return [
        Figure("dashboard, first paint", found["paint_ms"], "ms", "goal", 1000, "1 x"),
        Figure(f"dashboard, rows of {at}", found["rows_ms"], "ms", "goal", 1000, "1 x"),
        Figure(f"event to its row, {at}", found["event_ms"], "ms", "goal", 200, "1 x"),
        Figure(f"opsd, {at}, PSS", found["opsd_mib"], "MiB", "goal", 120, "1 x"),
    ]


async def _against_bare(chosen: set[str], cri: Cri, node: TestNode, image: str, bundle: Path) -> list[Figure]:
    figures = []
    if "pods" in chosen:
        pairs = await pods.pod_ready(cri, image, bundle)
        figures.append(_paired("pod ready, host network", pairs, "crun run", "3 x"))
    if "cni" in chosen:
        conflist = next((node.data_dir / "cni").glob("*.conflist"))
        pairs = await pods.pod_ready_cni(cri, image, bundle, conflist)
        figures.append(_paired("pod ready, CNI bridge", pairs, "CNI ADD + crun run", "2 x"))
    if "exec" in chosen:
        pairs = await pods.exec_sync(cri, image, bundle)
        figures.append(_paired("exec sync", pairs, "crun exec", "2.5 x"))
    return figures


def _paired(name: str, pairs: pods.Pairs, against: str, goal: str) -> Figure:
    floor = statistics.median(pairs.floor)
    return Figure(name, statistics.median(pairs.ours), "ms", f"{against}, in turn", floor, goal)


def parser() -> argparse.ArgumentParser:
    """What can be asked for."""
    made = argparse.ArgumentParser(
        prog="./dev bench", description="Measure against bare runtimes and containerd."
    )
    choice = made.add_mutually_exclusive_group()
    choice.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="what to measure")
    choice.add_argument(
        "--against",
        metavar="REVISION",
        help="pods, logs and pulls of this code and of that one in turn, instead",
    )
    return made


def main() -> None:
    """Measure, print, keep."""
    arguments = parser().parse_args()
    try:
        if arguments.against:
            figures = anyio.run(against.measure, arguments.against)
        else:
            figures = anyio.run(measure, set(arguments.only))
    except SlipwayError as exc:
        sys.exit(f"bench: {exc}")
    print(f"{'':34} {'measured':>12} {'against':>27} {'floor':>10} {'ratio':>7}  goal")
    for f in figures:
        print(
            f"{f.name:34} {f.value:9.2f} {f.unit:<3} {f.against:>26} {f.floor:10.2f} {f.ratio:6.2f}x  {f.goal}"
        )
    print(f"in turn: one of ours, one of the floor, and so on, each {bare.REST_S * 1e3:g} ms after the last")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps([asdict(f) | {"ratio": f.ratio} for f in figures], indent=2) + "\n")
    print(f"kept in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
