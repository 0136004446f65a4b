"""The kill matrix: each process of a node, killed at each failpoint; made from the registry of failpoints.

In each row one pod is led through its life; at the row's failpoint the service stands still until the row's victim is dead,
or has left its call, where that is the caller.
"""

import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import grpc

from common import failpoint
from common.api.cri.v1 import api_pb2 as cri_pb
from common.failpoint import POINTS, REACHED, Step
from devtools.cri import Impatient
from slipway.doctor.deep import history, recorded
from tests.support import logs
from tests.support.node import TestNode
from torture import left
from torture.again import PATIENCE_S, Again
from torture.book import Book
from torture.kills import CALLER, RUNTIME, SHIM, ZYGOTE, strike
from torture.page import Section, Table

EVERYWHERE = ("snapshotd", "shimd", "imaged", "runtimed", "crid", "redis", "nats", ZYGOTE, CALLER)
ONCE = "opsd"
"""No step needs it: it is killed at the first failpoint of each."""
HAS_SHIM = (Step.EXEC, Step.ROTATE, Step.STOP)
SHIM_TOO = ("shimd.spawn.forked", "runtimed.start.spawned", "runtimed.start.ran", "runtimed.start.recorded")
NO_SHIM = ("shimd.remove.ended", "runtimed.exit.recorded")
OCI = {"oci.run": Step.START, "oci.exec": Step.EXEC, "oci.delete": Step.STOP}
"""Where the OCI runtime is held, by a program in its place."""
REACH_S, LINE_S, SUFFERS_S = 40.0, 30.0, 2.0
HEARD_S = 0.05
"""What it takes until a service hears that a caller has left, with room."""
LINES, CODE, EXEC_CODE = 20, 7, 3
LIVES = {
    "container": ["created", "started", "exited", "removed"],
    "sandbox": ["created", "ready", "stopped", "removed"],
}
"""Events of a row whose victim is not the container's own."""
HOLDER = """#!/bin/sh
for word; do case $word in run|exec|delete) break;; esac; done
if mv {directory}/oci.$word {directory}/oci.$word.pid 2>/dev/null; then
    echo $$ > {directory}/oci.$word.pid
    mv {directory}/oci.$word.pid {directory}/oci.$word.reached
    while [ -e {directory}/oci.$word.reached ]; do sleep 0.01; done
fi
exec crun "$@"
"""


class UntrueError(Exception):
    """Something is not as it must be."""


@dataclass(frozen=True)
class Row:
    """One death, or leave, at one moment."""

    point: str
    victim: str

    def __str__(self) -> str:
        return f"{self.victim} at {self.point}"

    @property
    def step(self) -> Step:
        return POINTS[self.point] if self.point in POINTS else OCI[self.point]

    @property
    def harms(self) -> bool:
        """Whether the container itself may suffer: its own shim or OCI runtime is killed."""
        return self.victim in (SHIM, RUNTIME)


def rows() -> list[Row]:
    """All of them."""
    return [Row(point, victim) for point in (*POINTS, *OCI) for victim in victims(point)]


def victims(point: str) -> Iterator[str]:
    """Who can be killed at a failpoint."""
    yield from EVERYWHERE
    step = Row(point, "").step
    if point == next(name for name, its in POINTS.items() if its is step):
        yield ONCE
    if (step in HAS_SHIM and point not in NO_SHIM) or point in SHIM_TOO or point in OCI:
        yield SHIM
    if point in OCI:
        yield RUNTIME


def sample(number: int) -> list[Row]:
    """So many rows, always the same, spread over failpoints and victims."""
    every = rows()
    return [every[index * len(every) // number] for index in range(number)]


def settings(directory: Path) -> dict[str, str]:
    """Of a node whose OCI runtime can be held, too; its program and the armed failpoints are in a directory."""
    program = directory / "crun"
    program.write_text(HOLDER.format(directory=directory))
    program.chmod(0o755)
    return {
        "SLIPWAY_RUNTIMED_HANDLERS": f'{{"crun": {{"binary": "{program}"}}}}',
        "SLIPWAY_RUNTIMED_RECONCILE_EVERY_S": "5",
    }


@dataclass
class Matrix:
    """Goes through rows on one node.

    Args:
        node: made with `settings`, and with the directory of failpoints in its run directory.
        cri: of the node.
        image: what is pulled and run.
        oci: where the OCI runtime's failpoints are.
    """

    node: TestNode
    cri: Impatient
    image: str
    oci: Path
    problems: list[str] = field(default_factory=list)
    done: list[Row] = field(default_factory=list)
    worst_s: float = 0.0
    """The longest from a death until its pod's life was led to its end."""
    _struck_at: float = 0.0
    _container_id: str = ""
    _whole: dict[str, dict[str, Row]] = field(default_factory=lambda: {kind: {} for kind in LIVES})
    """Of each kind the objects that must have had a whole life, and the row of each."""

    async def run(self, row: Row) -> None:
        """One row; what is wrong goes to the problems."""
        self._container_id, before = "", len(self.problems)
        content = self._content()
        if row.step in (Step.PULL, Step.UNPACK):
            await self._forget_image()
        place = self.oci if row.point in OCI else self.node.run_dir / failpoint.DIRECTORY
        (place / row.point).touch()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._kill, row, place / f"{row.point}{REACHED}")
                await self._life(row)
            self.worst_s = max(self.worst_s, anyio.current_time() - self._struck_at)
        except* (grpc.aio.AioRpcError, TimeoutError, OSError, UntrueError) as group_of:
            for exc in group_of.exceptions:
                text = exc.details() if isinstance(exc, grpc.aio.AioRpcError) else repr(exc)
                self.problems.append(f"{row}: {text}")
        finally:
            for armed in place.glob(f"{row.point}*"):
                armed.unlink(missing_ok=True)
        if len(self.problems) > before:
            with suppress(grpc.aio.AioRpcError):
                await Again()("clean", self.cri.remove_all)
        told = [*await self.node.differences(), *self._left(), *self._changed(content)]
        self.problems += [f"{row}: {one}" for one in told if not any(one in known for known in self.problems)]
        self.done.append(row)

    def section(self) -> Section:
        """Rows by step and by victim, and those of which nothing was lost."""
        lost = [row for row in self.done if any(one.startswith(f"{row}: ") for one in self.problems)]
        kinds = sorted({row.victim for row in self.done}, key=str.lower)
        every, table = rows(), []
        for step in Step:
            if its := [row for row in self.done if row.step is step]:
                numbers = [sum(row.victim == kind for row in its) for kind in kinds]
                survived = len(its) - sum(row in lost for row in its)
                table.append([str(step), *(str(number or "") for number in numbers), str(survived)])
        return Section(
            ran=f"{len(self.done)} rows of {len(every)}.",
            faults=len(self.done),
            survived=len(self.done) - len(lost),
            worst_s=self.worst_s,
            lost=self.problems,
            tables=[Table(["Step", *kinds, "survived"], table)],
        )

    async def look_back(self) -> None:
        """After the last row: each container and sandbox that no row harmed has all the events of a life; else that is a problem."""
        await left.relayed(self.node, Book(problems=self.problems))
        events = await recorded.history(str(self.node.state["nats_url"]), str(self.node.state["node"]))
        self.problems += untold(self._whole, history.gather(events))

    def _content(self) -> set[str]:
        """Files of blobs, whole and not."""
        own = self.node.data_dir / "imaged"
        files = (path for kind in ("blobs", "ingest") for path in (own / kind).rglob("*"))
        return {str(path) for path in files if path.is_file()}

    def _changed(self, before: set[str]) -> list[str]:
        """Blobs that a row has left or taken away; the checker tells no unneeded ones, of which the node keeps some for a day."""
        return [f"left or lost: {path}" for path in sorted(before ^ self._content())]

    def _left(self) -> list[str]:
        return [f"left: {kind} {name}" for kind, names in self.node.leftovers().items() for name in names]

    async def _forget_image(self) -> None:
        request = cri_pb.RemoveImageRequest(image=cri_pb.ImageSpec(image=self.image))
        await Again()("forget", partial(self.cri.call, self.cri.images.RemoveImage, request))

    async def _kill(self, row: Row, reached: Path) -> None:
        with anyio.fail_after(REACH_S):
            while not await anyio.Path(reached).exists():
                await anyio.sleep(0.005)
        self._struck_at = anyio.current_time()
        if row.victim == CALLER:
            if not self.cri.leave():
                self.problems.append(f"{row}: there is no call to leave")
            await anyio.sleep(HEARD_S)
        elif row.victim == RUNTIME:
            os.kill(int(reached.read_text()), signal.SIGKILL)
        else:
            strike(self.node, row.victim, self._container_id)
        reached.unlink(missing_ok=True)

    async def _life(self, row: Row) -> None:
        again, cri, name = Again(), self.cri, f"row-{len(self.done)}"
        await again("pull", partial(cri.pull, self.image))
        sandbox = cri.sandbox_config(name)
        sandbox.linux.security_context.namespace_options.pid = cri_pb.POD
        if row.step in (Step.RUN_SANDBOX, Step.REMOVE_SANDBOX):
            sandbox.port_mappings.add(container_port=80, host_port=28080)
        sandbox_id = await _twice(again, partial(cri.run_sandbox, sandbox))
        self._whole["sandbox"][sandbox_id] = row
        await self._container(row, again, name, sandbox_id, sandbox)
        await again("remove pod", partial(cri.remove_sandbox, sandbox_id))

    async def _container(
        self, row: Row, again: Again, name: str, sandbox_id: str, sandbox: cri_pb.PodSandboxConfig
    ) -> None:
        cri, count = self.cri, self.node.data_dir / f"{name}.count"
        log = self.node.logs / name / "c.log"
        script = (
            f"echo ran >> /count; i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); done; "
            f"trap 'exit {CODE}' TERM; while :; do sleep 0.02; done"
        )
        count.touch()
        config = cri.container_config("c", self.image, ["sh", "-c", script])
        config.mounts.add(container_path="/count", host_path=str(count))
        made = await _twice(again, partial(cri.create, sandbox_id, config, sandbox))
        self._container_id = made
        if not row.harms:
            self._whole["container"][made] = row
        if await self._start(row, again, made):
            await self._runs(row, again, made, log)
        await again("remove", partial(cri.remove, made))
        ran = count.read_text().count("ran")
        if ran != 1 and not (row.harms and ran == 0):
            self.problems.append(f"{row}: the container ran {ran} times")

    async def _start(self, row: Row, again: Again, container_id: str) -> bool:
        """Whether it runs; a start that is asked for again although it had worked is refused."""
        try:
            await again("start", partial(self.cri.start, container_id))
        except grpc.aio.AioRpcError as exc:
            if exc.code() is grpc.StatusCode.FAILED_PRECONDITION and again.refused["start"]:
                return True
            if row.harms:
                return False
            raise
        return True

    async def _runs(self, row: Row, again: Again, container_id: str, log: Path) -> None:
        cri = self.cri
        await _until(row, lambda: log.exists() and f" line {LINES - 1}\n" in log.read_text())
        await self._exec(row, container_id)
        rotated = log.with_name("c.log.1")
        if not log.exists():  # nor has the container run
            return
        log.rename(rotated)
        reopen = cri_pb.ReopenContainerLogRequest(container_id=container_id)
        rotate = partial(cri.call, cri.runtime.ReopenContainerLog, reopen)
        await _unless(row, rotate() if row.harms else again("rotate", rotate))
        await again("stop", partial(cri.stop, container_id, 10))
        status = await again("status", partial(cri.status, container_id))
        if status.exit_code != CODE and not row.harms:
            self.problems.append(f"{row}: exit code {status.exit_code} ({status.reason}), not {CODE}")
        lines = logs.lines(rotated)
        if lines != [f"line {number}" for number in range(LINES)] and not row.harms:
            self.problems.append(f"{row}: {len(lines)} log lines, not {LINES}")
        if not log.exists() and not row.harms:
            self.problems.append(f"{row}: no new log after its rotation")

    async def _exec(self, row: Row, container_id: str) -> None:
        """A command; asked for again when a fault took its answer."""
        command = ["sh", "-c", f"echo said; exit {EXEC_CODE}"]
        give_up_at = anyio.current_time() + PATIENCE_S
        while True:
            try:
                answer = await self.cri.exec(container_id, command, 20)
            except grpc.aio.AioRpcError as exc:
                if row.victim == SHIM:
                    return
                if anyio.current_time() > give_up_at or exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
                await anyio.sleep(0.25)
                continue
            if (answer.exit_code, answer.stdout) != (EXEC_CODE, b"said\n"):
                self.problems.append(f"{row}: exec: {answer.exit_code} {answer.stdout!r}")
            return


def untold(whole: dict[str, dict[str, Row]], told: history.Told) -> list[str]:
    """Of objects that must have had a whole life, by kind and id with their row: those with other events than its."""
    found = []
    for kind, verbs in LIVES.items():
        for name, row in whole[kind].items():
            if (seen := told.verbs[kind].get(name, [])) != verbs:
                found.append(f"{row}: events of its {kind}: {' '.join(seen)}")
    return found


async def _twice(again: Again, call: Callable[[], Awaitable[str]]) -> str:
    """The id that a call answers, and answers when it is made again."""
    made = await again("make", call)
    repeated = await again("make again", call)
    if repeated != made:
        message = f"a repeated call made {repeated}, not {made}"
        raise UntrueError(message)
    return made


async def _until(row: Row, met: Callable[[], bool]) -> None:
    """Wait for a fact that a container which suffers may not bring about."""
    with anyio.move_on_after(SUFFERS_S if row.harms else LINE_S) as scope:
        while not met():
            await anyio.sleep(0.02)
    if scope.cancelled_caught and not row.harms:
        message = "its lines are not in its log"
        raise UntrueError(message)


async def _unless(row: Row, call: Awaitable[object]) -> None:
    """Make a call that may be refused to a container which suffers."""
    try:
        await call
    except grpc.aio.AioRpcError:
        if not row.harms:
            raise
