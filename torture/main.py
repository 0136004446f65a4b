"""`./dev torture`: churn under kills, and what was lost by it."""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import anyio

from common.errors import SlipwayError
from devtools.cri import connect_impatiently
from devtools.registry import push_busybox, registry
from tests.support.node import running_node
from torture import density, history, left, report, upgrade
from torture.again import Again
from torture.book import Book
from torture.churn import Ground, Worker
from torture.kills import Killer
from torture.matrix import Matrix, Row, rows, settings
from torture.samples import Sampler

SHORT_S, LONG_S = 60.0, 3600.0
WORKERS = 6
SETTINGS = {"SLIPWAY_RUNTIMED_RECONCILE_EVERY_S": "5"}


async def torture(seconds: float, seed: int, workers: int = WORKERS, keep: str = "") -> report.Report:
    """Churn and kill for so long; the same seed gives the same work and the same faults."""
    with tempfile.TemporaryDirectory(prefix="slipway-torture-") as name:
        base = Path(name)
        with registry(base / "registry") as shop, running_node(base / "n", settings=SETTINGS) as node:
            image = push_busybox(shop)
            again, book = Again(), Book()
            dice = random.Random(seed)
            sampler = Sampler(node)
            async with connect_impatiently(node.socket, node.logs) as cri:
                killer = Killer(node, cri, book, random.Random(dice.random()))
                await cri.pull(image)
                ground = Ground(cri, again, book, image, node.logs)
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
            if keep and found.problems:
                shutil.copytree(node.run_dir / "log", keep, dirs_exist_ok=True)
    return found


def main() -> None:
    """Run, print, and end with 1 when something was lost."""
    parser = argparse.ArgumentParser(
        prog="./dev torture", description="Kill everything while pods come and go, and count what is lost."
    )
    parser.add_argument("--seconds", type=float, default=SHORT_S, help="how long (%(default)g)")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the dice"
    )
    parser.add_argument("--workers", type=int, default=WORKERS, help="pods at once (%(default)d)")
    parser.add_argument("--long", action="store_true", help=f"for {LONG_S:g} s")
    parser.add_argument(
        "--keep", metavar="DIR", default="", help="copy the logs there when something is lost"
    )
    parser.add_argument("--write", action="store_true", help="write docs/reliability.md with the figures")
    parser.add_argument(
        "--matrix", action="store_true", help="the whole kill matrix instead, in the order of its steps"
    )
    parser.add_argument("--only", metavar="TEXT", default="", help="of the matrix, rows whose name has this")
    parser.add_argument(
        "--density", action="store_true", help="250 pods, restarts with them, execs and attaches instead"
    )
    parser.add_argument(
        "--upgrade",
        metavar="REVISION",
        help="take over from that older Slipway, with its pods there, instead",
    )
    arguments = parser.parse_args()
    if arguments.upgrade:
        try:
            problems = upgrade.run(arguments.upgrade, arguments.seconds / 2, arguments.seed)
        except SlipwayError as exc:
            sys.exit(f"torture: {exc}")
        sys.exit(_tell(problems))
    if arguments.density:
        print("\n".join(anyio.run(density.measure).lines()))
        return
    if arguments.matrix or arguments.only:
        chosen = [row for row in rows() if arguments.only in str(row)]
        went = anyio.run(matrix, chosen, arguments.keep)
        print(f"{went.done} rows of the kill matrix, {len(went.problems)} problems")
        sys.exit(1 if went.problems else 0)
    seconds = LONG_S if arguments.long else arguments.seconds
    found = anyio.run(torture, seconds, arguments.seed, arguments.workers, arguments.keep)
    print(found.markdown())
    if arguments.write:
        report.write(found)
    sys.exit(_tell(found.problems))


def _tell(problems: list[str]) -> int:
    """Print what was lost; the status of the command."""
    for problem in problems:
        print(f"LOST  {problem}", file=sys.stderr, flush=True)
    return 1 if problems else 0


if __name__ == "__main__":
    main()
