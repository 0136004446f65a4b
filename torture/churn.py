"""Workers that lead pods through their lives over CRI, and compare all that they see with what must be true."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import grpc

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri
from tests.support import logs
from torture.again import Again
from torture.book import Book, Harm, Life

END_S = 60.0
LOOK_S = 0.05
LONGEST_S = 1.5
LOST_CODE, START_CODE = 255, 128
KILLED = (137, 143)


@dataclass(frozen=True)
class Ground:
    """Where workers work."""

    cri: Cri
    again: Again
    book: Book
    image: str
    logs: Path
    end_s: float = END_S
    """How long a container may take to write its lines, and to end."""


class Worker:
    """One of several; its pods are its own.

    Args:
        ground: where.
        number: which.
        dice: its own, so that a seed means the same work whatever the others do.
    """

    def __init__(self, ground: Ground, number: int, dice: random.Random) -> None:
        self._on, self._number, self._dice = ground, number, dice

    async def run(self, until: anyio.Event) -> None:
        """Lead one pod after the other, until told to stop."""
        turn = 0
        while not until.is_set():
            turn += 1
            name = f"churn-{self._number}-{turn}"
            try:
                await self._pod(name)
            except (grpc.aio.AioRpcError, TimeoutError) as exc:
                said = (
                    f"{exc.code().name}: {exc.details()}"
                    if isinstance(exc, grpc.aio.AioRpcError)
                    else str(exc)
                )
                self._on.book.lost(f"{name}: a call failed: {said}")

    async def _pod(self, name: str) -> None:
        on, cri = self._on, self._on.cri
        await on.again("pull", partial(cri.pull, on.image))
        config = cri.sandbox_config(name, host_network=self._dice.random() < 0.5)
        sandbox_id = await self._same("sandbox", partial(cri.run_sandbox, config))
        on.book.sandboxes[sandbox_id] = name
        for number in range(self._dice.randint(1, 2)):
            await self._container(name, f"c{number}", sandbox_id, config)
        await on.again("remove pod", partial(cri.remove_sandbox, sandbox_id))
        listed = await on.again(
            "list", partial(cri.call, cri.runtime.ListPodSandbox, cri_pb.ListPodSandboxRequest())
        )
        if sandbox_id in {item.id for item in listed.items}:
            on.book.lost(f"{name}: the pod is listed after its removal")
        on.book.count("pods")

    async def _same(self, what: str, call: Callable[[], Awaitable[str]]) -> str:
        """The id that a call answers; now and then it is made twice, as by a client that lost the answer."""
        made = await self._on.again(what, call)
        if self._dice.random() < 0.2 and await self._on.again(what, call) != made:
            self._on.book.lost(f"{what}: a repeated call made another one than {made}")
        return made

    async def _container(
        self, pod: str, name: str, sandbox_id: str, sandbox: cri_pb.PodSandboxConfig
    ) -> None:
        on, cri = self._on, self._on.cri
        lines, code = self._dice.randint(1, 200), self._dice.randint(0, 100)
        pause_s = self._dice.random() * LONGEST_S
        stopped = self._dice.random() < 0.3
        end = "sleep 1000" if stopped else f"sleep {pause_s:.2f}; exit {code}"
        script = f"i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); done; {end}"
        config = cri.container_config(name, on.image, ["sh", "-c", script])
        container_id = await self._same("container", partial(cri.create, sandbox_id, config, sandbox))
        life = on.book.lives[container_id] = Life(container_id, sandbox_id, lines, code)
        if await self._start(life):
            await self._exec(life)
            if stopped:
                await self._written(on.logs / pod / f"{name}.log", life)
                await on.again("stop", partial(cri.stop, container_id, self._dice.choice([0, 1])))
            await self._look_at_end(life, stopped=stopped)
            self._read_log(on.logs / pod / f"{name}.log", life)
        await on.again("remove", partial(cri.remove, container_id))
        life.removed = True
        on.book.count("containers")

    async def _start(self, life: Life) -> bool:
        """Whether it ran; a repeated start of one that runs or has run already is refused, and it did."""
        on = self._on
        asked_before = on.again.refused["start"]
        try:
            await on.again("start", partial(on.cri.start, life.container_id))
        except grpc.aio.AioRpcError as exc:
            if exc.code() is grpc.StatusCode.FAILED_PRECONDITION and on.again.refused["start"] > asked_before:
                life.started = True
                return True
            if Harm.RUNTIME in life.harm or Harm.SHIM in life.harm:
                on.book.count("starts that their own fault ended")
                return False
            raise
        life.started = True
        return True

    async def _exec(self, life: Life) -> None:
        """A command, of which a fault may take the answer but must not change it."""
        on = self._on
        code = self._dice.randint(0, 50)
        try:
            answer = await on.cri.exec(life.container_id, ["sh", "-c", f"echo said {code}; exit {code}"], 20)
        except grpc.aio.AioRpcError:
            on.book.count("execs cut off, or of a container that had ended")
            return
        on.book.count("execs")
        if (answer.exit_code, answer.stdout) != (code, b"said %d\n" % code) and not (
            life.harm or answer.exit_code in KILLED
        ):
            on.book.lost(f"{life.container_id[:12]}: exec: {answer.exit_code} {answer.stdout!r}, not {code}")

    async def _written(self, log: Path, life: Life) -> None:
        """Wait until its lines are there, which a stop would cut off."""
        last = f" line {life.lines - 1}\n"
        with anyio.move_on_after(self._on.end_s):
            while not life.harm and not (log.exists() and last in log.read_text()):
                await anyio.sleep(LOOK_S)

    async def _look_at_end(self, life: Life, *, stopped: bool) -> None:
        on, name = self._on, life.container_id[:12]
        with anyio.move_on_after(self._on.end_s) as scope:
            while (status := await on.again("status", partial(on.cri.status, life.container_id))).state in (
                cri_pb.CONTAINER_RUNNING,
                cri_pb.CONTAINER_CREATED,
            ):
                await anyio.sleep(LOOK_S)
        if scope.cancelled_caught:
            on.book.lost(f"{name}: has not ended for {on.end_s:g} s")
            return
        right = status.exit_code in KILLED if stopped else status.exit_code == life.exit_code
        if not right and not (life.harm and status.exit_code in (LOST_CODE, START_CODE, *KILLED)):
            on.book.lost(
                f"{name}: exit code {status.exit_code} ({status.reason} {status.message}), not {life.exit_code}"
            )
        if not 0 < status.created_at <= status.started_at <= status.finished_at:
            on.book.lost(
                f"{name}: created {status.created_at}, started {status.started_at}, ended {status.finished_at}"
            )
        on.book.count("exit codes")

    def _read_log(self, log: Path, life: Life) -> None:
        found = logs.lines(log)
        wanted = [f"line {number}" for number in range(life.lines)]
        if found != wanted and not (life.harm and found == wanted[: len(found)]):
            self._on.book.lost(
                f"{life.container_id[:12]}: {len(found)} log lines of {life.lines}, or in another order"
            )
        self._on.book.count("log lines", len(found))
