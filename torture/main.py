"""`./dev torture`: the parts, what each has found, and the page of it."""

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio

from common.errors import SlipwayError
from devtools.cri import connect_impatiently
from devtools.registry import push_busybox, registry
from tests.support.node import running_node
from torture import density, history, inputs, left, page, report, upgrade
from torture.again import PATIENCE_S, Again
from torture.book import Book
from torture.churn import END_S, Ground, Worker
from torture.kills import AWAY_S, Killer
from torture.matrix import Matrix, Row, rows, sample, settings
from torture.page import TITLES, Section
from torture.power import cuts
from torture.samples import Sampler

SHORT_S, LONG_S = 60.0, 3600.0
LONG_AWAY_S = 150.0
SAMPLE = 20
"""Rows of the matrix in the short form."""
FEW = (25, 100, 500)
"""Pods, execs and attaches in the short form."""
OLDER = "HEAD~20"
UPGRADE_S, WHOLE_UPGRADE_S = 5.0, 30.0
"""Of churn under the older one, and again under the newer."""
CUTS = 5
WORKERS = 6
SETTINGS = {"SLIPWAY_RUNTIMED_RECONCILE_EVERY_S": "5"}


async def torture(
    seconds: float, seed: int, workers: int = WORKERS, keep: str = "", away_s: float = AWAY_S
) -> report.Report:
    """Churn and kill for so long; the same seed gives the same work and the same faults.

    Args:
        seconds: after which nothing new is begun.
        seed: of the dice.
        workers: pods at once.
        keep: a directory for the logs of the node when something is lost; none: they are not kept.
        away_s: how long Redis and NATS are away when they are.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-torture-") as name:
        base = Path(name)
        with registry(base / "registry") as shop, running_node(base / "n", settings=SETTINGS) as node:
            image = push_busybox(shop)
            again, book = Again(PATIENCE_S + away_s), Book()
            dice = random.Random(seed)
            sampler = Sampler(node)
            async with connect_impatiently(node.socket, node.logs) as cri:
                killer = Killer(node, cri, book, random.Random(dice.random()), away_s)
                await cri.pull(image)
                ground = Ground(cri, again, book, image, node.logs, END_S + away_s)
                began = time.monotonic()
                kills_end, work_ends, looks_end = anyio.Event(), anyio.Event(), anyio.Event()
                async with anyio.create_task_group() as looking:
                    looking.start_soon(sampler.run, looks_end)
                    async with anyio.create_task_group() as group:
                        group.start_soon(killer.run, kills_end)
                        for number in range(workers):
                            worker = Worker(ground, number, random.Random(dice.random()))
                            group.start_soon(worker.run, work_ends)
                        await anyio.sleep(seconds)
                        kills_end.set()
                        work_ends.set()
                    looks_end.set()
                took = time.monotonic() - began
                await left.check(node, cri, book)
                await left.relayed(node, book)
                await history.check(node, book)
            if keep and book.problems:
                shutil.copytree(node.run_dir / "log", keep, dirs_exist_ok=True)
    return report.Report(
        seed=seed,
        seconds=took,
        workers=workers,
        counts=book.counts,
        refused=dict(again.refused),
        faults=killer.faults,
        samples=sampler.samples,
        problems=book.problems,
    )


async def matrix(chosen: list[Row], keep: str = "") -> Matrix:
    """Go through rows of the kill matrix on a node of their own."""
    with tempfile.TemporaryDirectory(prefix="slipway-matrix-") as name:
        base = Path(name)
        oci = base / "oci"
        oci.mkdir()
        with (
            registry(base / "registry") as shop,
            running_node(base / "n", settings=settings(oci), failpoints=True) as node,
        ):
            image = push_busybox(shop)
            async with connect_impatiently(node.socket, node.logs) as cri:
                await cri.pull(image)
                found = Matrix(node, cri, image, oci)
                for row in chosen:
                    began, before = time.monotonic(), len(found.problems)
                    await found.run(row)
                    _tell(found.problems[before:])
                    print(f"{time.monotonic() - began:6.1f} s  {row}", file=sys.stderr, flush=True)
                await found.look_back()
            if keep and found.problems:
                shutil.copytree(node.run_dir / "log", keep, dirs_exist_ok=True)
    return found


def main() -> None:
    """Run the parts asked for, print what they found, and end with 1 when something was lost."""
    arguments = parser().parse_args()
    lost = False
    for name, part in parts(arguments).items():
        print(f"--- {TITLES[name]}", file=sys.stderr, flush=True)
        section = _tried(part)
        print(section.markdown(), flush=True)
        _tell(section.lost)
        lost = lost or bool(section.lost)
        if arguments.write and not arguments.only:  # at once: what comes later may take hours
            page.write({name: section})
    sys.exit(1 if lost else 0)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="./dev torture",
        description="Make faults on purpose, and count what is lost: every part in its short form, or the parts named, each whole.",
    )
    say = made.add_argument
    say(
        "--long",
        action="store_true",
        help="every part whole: an hour of churn, all of the matrix, power cuts",
    )
    say("--write", action="store_true", help="write the figures of these parts to docs/reliability.md")
    say("--churn", action="store_true", help="kill everything while pods come and go")
    say("--matrix", action="store_true", help="the kill matrix, in the order of its steps")
    say("--only", metavar="TEXT", default="", help="of the matrix, rows whose name has this; never written")
    say("--density", action="store_true", help="250 pods, restarts with them, execs and attaches")
    say(
        "--upgrade",
        metavar="REVISION",
        nargs="?",
        const=OLDER,
        help=f"take over from an older Slipway ({OLDER})",
    )
    say(
        "--power",
        metavar="CUTS",
        nargs="?",
        const=CUTS,
        type=int,
        help=f"cut the power of an emulated node ({CUTS} times)",
    )
    say("--inputs", action="store_true", help="the tests that send what is malformed, oversized or hostile")
    say("--seconds", type=float, help=f"of churn ({SHORT_S:g}; with --long {LONG_S:g})")
    say("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the dice")
    say("--workers", type=int, default=WORKERS, help="pods at once in the churn (%(default)d)")
    say("--keep", metavar="DIR", default="", help="copy the logs there when something is lost")
    say("--packages", default="", help=argparse.SUPPRESS)
    return made


def parts(arguments: argparse.Namespace) -> dict[str, Callable[[], Section]]:
    """The parts to run, in the order of the page."""
    a = arguments
    every = not any((a.churn, a.matrix, a.only, a.density, a.upgrade, a.power, a.inputs))
    whole = a.long or not every
    seconds = a.seconds or (LONG_S if a.long else SHORT_S)

    def churned() -> Section:
        return anyio.run(
            torture, seconds, a.seed, a.workers, a.keep, LONG_AWAY_S if a.long else AWAY_S
        ).section()

    def matrixed() -> Section:
        chosen = [row for row in rows() if a.only in str(row)] if whole else sample(SAMPLE)
        return anyio.run(matrix, chosen, a.keep).section()

    def dense() -> Section:
        size = (density.PODS, density.EXECS, density.ATTACHES) if whole else FEW
        return anyio.run(density.measure, *size).section()

    def upgraded() -> Section:
        return upgrade.run(a.upgrade or OLDER, WHOLE_UPGRADE_S if whole else UPGRADE_S, a.seed)

    def cut() -> Section:
        return cuts.run(a.power or CUTS, [*filter(None, a.packages.split(","))], a.seed)

    known: dict[str, tuple[bool, Callable[[], Section]]] = {
        "soak" if seconds >= report.SOAK_S else "churn": (every or a.churn, churned),
        "matrix": (every or a.matrix or a.only, matrixed),
        "density": (every or a.density, dense),
        "upgrade": (every or a.upgrade, upgraded),
        "power": ((every and a.long) or a.power, cut),
        "inputs": (every or a.inputs, partial(inputs.run, whole=whole)),
    }
    return {name: run for name, (asked, run) in known.items() if asked}


def _tried(part: Callable[[], Section]) -> Section:
    """What a part has found; one that did not come to its end has lost, and does not keep the others from running."""
    try:
        return part()
    except SlipwayError as exc:
        return Section(ran="It did not run.", faults=0, survived=0, lost=[exc.message])
    except Exception as exc:  # noqa: BLE001 - the border: the next part runs
        traceback.print_exc()
        return Section(ran="It did not come to its end.", faults=0, survived=0, lost=[repr(exc)])


def _tell(problems: list[str]) -> None:
    """Print what was lost."""
    for problem in problems:
        print(f"LOST  {problem}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
