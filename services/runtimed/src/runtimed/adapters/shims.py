"""Shims: born by shimd, spoken to on their own sockets."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec

from common.clients.shim import ShimClient, Started, open_stream
from common.clients.shimd import ShimdClient
from common.errors import DeadlineExceededError, InvalidArgumentError, UnavailableError, UnknownError
from common.observe.trace import traceparent
from runtimed.ports import (
    ExecNews,
    ExecOutcome,
    InitExit,
    InitPhase,
    InitStarted,
    InitState,
    PauseState,
    ShimPlan,
    ShimState,
)

EXIT_FILE = "exit.msgpack"
UPDATE_S = 30.0
STATE_S = 5.0
"""A shim knows its state without doing anything."""
PAUSE_S = 10.0
_PHASES = {
    "starting": InitPhase.BEGINS,
    "running": InitPhase.RUNS,
    "draining": InitPhase.RUNS,
    "exited": InitPhase.ENDED,
}
"""Of the states of a shim; in the others it has no init."""
T = TypeVar("T")


class ProcessShims:
    """runtimed.ports.Shims; keeps one connection to each shim."""

    def __init__(self, client: ShimdClient) -> None:
        self._client = client
        self._open: dict[str, ShimClient] = {}

    async def spawn(self, plan: ShimPlan) -> ShimState:
        shim = await self._client.spawn(
            plan.container_id,
            bundle_path=plan.bundle_path,
            runtime_binary=plan.runtime.binary,
            runtime_root=plan.runtime.root,
            runtime_args=plan.runtime.args,
            sandboxed=plan.runtime.sandboxed,
            record_dir=plan.record_dir,
            log_path=plan.log_path,
            tty=plan.tty,
            stdin=plan.stdin,
            stdin_once=plan.stdin_once,
            memory_cgroup_path=plan.memory_cgroup_path,
            pids_cgroup_path=plan.pids_cgroup_path,
            max_line_bytes=plan.max_line_bytes,
        )
        await self._forget(shim.socket_path)  # an earlier one of this container, which has gone
        return ShimState(
            container_id=shim.container_id, pid=shim.pid, socket_path=shim.socket_path, alive=shim.alive
        )

    async def list(self) -> tuple[list[ShimState], list[PauseState]]:
        shims, pauses = await self._client.list()
        return (
            [
                ShimState(container_id=s.container_id, pid=s.pid, socket_path=s.socket_path, alive=s.alive)
                for s in shims
            ],
            [PauseState(sandbox_id=p.sandbox_id, pid=p.pid, alive=p.alive) for p in pauses],
        )

    async def remove(self, container_id: str, *, force: bool = False) -> None:
        await self._client.remove(container_id, force=force)

    async def spawn_pause(self, sandbox_id: str, user_namespace: str) -> int:
        return (await self._client.spawn_pause(sandbox_id, user_namespace)).pid

    async def remove_pause(self, sandbox_id: str) -> None:
        await self._client.remove_pause(sandbox_id)

    async def start(self, socket_path: str, timeout_s: float) -> InitStarted:
        return await self._begin(
            socket_path, lambda shim: shim.start(traceparent=traceparent(), timeout_s=timeout_s)
        )

    async def restore(self, socket_path: str, directory: str, timeout_s: float) -> InitStarted:
        return await self._begin(
            socket_path, lambda shim: shim.restore(directory, traceparent=traceparent(), timeout_s=timeout_s)
        )

    async def _begin(self, socket_path: str, act: Callable[[ShimClient], Awaitable[Started]]) -> InitStarted:
        started = await self._call(socket_path, act)
        return InitStarted(
            pid=started.pid,
            at_ns=started.started_at_ns,
            runtime_begin_ns=started.runtime_begin_ns,
            runtime_end_ns=started.runtime_end_ns,
        )

    async def init_of(self, socket_path: str) -> InitState:
        try:
            with anyio.fail_after(STATE_S):
                facts = await self._call(socket_path, lambda shim: shim.state())
        except TimeoutError as exc:
            raise DeadlineExceededError(f"shim {socket_path}: has not answered for {STATE_S:g} s") from exc
        phase = _PHASES.get(str(facts["state"]), InitPhase.NONE)
        return InitState(phase=phase, pid=int(facts["pid"]), at_ns=int(facts["started_at_ns"]))

    async def follow(self, socket_path: str) -> AsyncIterator[ExecNews | InitExit]:
        stream = await open_stream(socket_path, "subscribe")
        try:
            while (message := await stream.next_message()) is not None:
                news = _news(message)
                if news is not None:
                    yield news
                if isinstance(news, InitExit):
                    return
        finally:
            await stream.close()
            await self._forget(socket_path)
        raise UnavailableError(f"shim {socket_path}: went away")

    async def kill(self, socket_path: str, signal: int, *, everyone: bool) -> None:
        await self._call(socket_path, lambda shim: shim.kill(signal, all=everyone))

    async def exec_sync(
        self, socket_path: str, exec_id: str, process: bytes, timeout_s: float
    ) -> ExecOutcome:
        client = await ShimClient.connect(socket_path)
        try:
            result = await client.exec(exec_id, process, timeout_s=timeout_s, traceparent=traceparent())
        finally:
            await client.close()  # which ends the command, when the caller left before its end
        if result.timed_out:
            raise DeadlineExceededError(f"the command was killed after {timeout_s:g} s")
        return ExecOutcome(exit_code=result.exit_code, stdout=result.stdout, stderr=result.stderr)

    async def update(self, socket_path: str, container_id: str, resources: bytes) -> None:
        args = ["update", "--resources", "-", container_id]
        await self._runtime(socket_path, container_id, args, UPDATE_S, resources)

    async def pause(self, socket_path: str, container_id: str) -> None:
        await self._runtime(socket_path, container_id, ["pause", container_id], PAUSE_S)

    async def resume(self, socket_path: str, container_id: str) -> None:
        await self._runtime(socket_path, container_id, ["resume", container_id], PAUSE_S)

    async def checkpoint(self, socket_path: str, container_id: str, directory: str, timeout_s: float) -> None:
        args = ["checkpoint", "--image-path", directory, "--work-path", directory, "--leave-running"]
        await self._runtime(socket_path, container_id, [*args, container_id], timeout_s)

    async def _runtime(
        self, socket_path: str, container_id: str, args: Sequence[str], timeout_s: float, stdin: bytes = b""
    ) -> None:
        """Call the OCI runtime; its message is the error."""
        result = await self._call(
            socket_path, lambda shim: shim.runtime([*args], stdin=stdin, deadline_s=timeout_s)
        )
        if result.timed_out:
            raise DeadlineExceededError(
                f"container {container_id}: {args[0]}: the OCI runtime took over {timeout_s:g} s"
            )
        if result.exit_code:
            said = result.stderr.decode(errors="replace").strip()[-500:]
            raise UnknownError(f"container {container_id}: {args[0]}: {said}")

    async def reopen_log(self, socket_path: str) -> None:
        await self._call(socket_path, lambda shim: shim.reopen_log())

    def forget_exit(self, record_dir: str) -> None:
        (Path(record_dir) / EXIT_FILE).unlink(missing_ok=True)

    def read_exit(self, record_dir: str) -> InitExit | None:
        try:
            body = (Path(record_dir) / EXIT_FILE).read_bytes()
        except FileNotFoundError:
            return None
        try:
            return _exit(msgspec.msgpack.decode(body))
        except (msgspec.DecodeError, KeyError, TypeError, InvalidArgumentError):
            return None

    async def _call(self, socket_path: str, act: Callable[[ShimClient], Awaitable[T]]) -> T:
        client = self._open.get(socket_path)
        if client is None:
            made = await ShimClient.connect(socket_path)
            client = self._open.setdefault(socket_path, made)
            if client is not made:  # another call was quicker
                await made.close()
        try:
            return await act(client)
        except UnavailableError:
            await self._forget(socket_path)
            raise

    async def _forget(self, socket_path: str) -> None:
        client = self._open.pop(socket_path, None)
        if client is not None:
            await client.close()


def _news(message: dict[str, Any]) -> ExecNews | InitExit | None:
    match message.get("event"):
        case "exit":
            return _exit(message)
        case "exec_started":
            return ExecNews(exec_id=message["exec_id"], at_ns=message["at_ns"])
        case "exec_exit":
            return ExecNews(
                exec_id=message["exec_id"],
                at_ns=message["at_ns"],
                ended=True,
                exit_code=message["exit_code"],
                timed_out=message["timed_out"],
            )
        case _:
            return None


def _exit(facts: dict[str, Any]) -> InitExit:
    return InitExit(
        exit_code=int(facts["exit_code"]),
        pid=int(facts.get("pid", 0)),
        signal=int(facts["signal"]),
        oom_killed=bool(facts["oom_killed"]),
        started_at_ns=int(facts["started_at_ns"]),
        finished_at_ns=int(facts["finished_at_ns"]),
        log_bytes=int(facts["log_bytes"]),
        dropped_bytes=int(facts["dropped_bytes"]),
        memory=_counts(facts, "memory"),
        pids=_counts(facts, "pids"),
    )


def _counts(facts: dict[str, Any], key: str) -> dict[str, int]:
    return {str(name): int(value) for name, value in facts.get(key, {}).items()}
