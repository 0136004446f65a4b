"""What runs in a container: start, watch for the end, stop."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from common.api.cri.v1 import api_pb2 as cri
from common.clock import now_ns
from common.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    SlipwayError,
    UnavailableError,
    UnknownError,
)
from common.events.schema import ContainerStopRequested
from common.failpoint import failpoint
from common.observe.log import get_logger
from common.observe.trace import record_span
from common.sys.hostroot import HostRoot
from runtimed import meters, processes, selection, signals
from runtimed.checkpoint import dump
from runtimed.evidence import Mark
from runtimed.machine import container as machine
from runtimed.machine.causes import RPC, SHIM
from runtimed.oci import cgroups
from runtimed.ops import Op
from runtimed.ports import ExecNews, InitExit, InitStarted
from runtimed.record import ContainerRecord, ContainerState, SandboxState
from runtimed.use.bundles import bundle
from runtimed.use.exec.book import ExecBook
from runtimed.use.lifespan import life_span
from runtimed.use.parts import Parts
from runtimed.use.task.halfstart import HalfStarts
from runtimed.use.task.holds import Holds
from runtimed.use.task.shimplan import shim_plan
from runtimed.use.together import together

_log = get_logger("runtimed")
AGAIN_S = 0.25
GRACE_S = 2.0
"""How long a shim that went away may be missing before its container is called lost."""
SILENT_S = 10.0
"""How long a shim may take to tell of an end: draining the output takes it up to 2 s."""
SIGNAL_S = 5.0
"""How long a shim may take to pass a signal on, before it is sent past it."""
KILL_AGAIN_S = 2.0
ENDED = (ContainerState.EXITED, ContainerState.REMOVING)


@dataclass
class _Stop:
    """A stop that goes on; later callers may only bring its deadline forward."""

    kill_at: float
    sooner: anyio.Event = field(default_factory=anyio.Event)


class Tasks:
    """The inits of this node's containers."""

    def __init__(self, parts: Parts, execs: ExecBook, holds: Holds) -> None:
        self._parts = parts
        self._execs = execs
        self._holds = holds
        self._stops: dict[str, _Stop] = {}
        self._watched: set[str] = set()
        self._untold: dict[str, str] = {}
        """Containers whose end waits for Redis, and what that says."""
        self._half = HalfStarts(parts, self.settle, self.watch)

    async def start(self, name: str) -> None:
        """Run a CREATED container.

        Raises:
            NotFoundError: there is none.
            InvalidTransitionError: it is not CREATED.
            FailedPreconditionError: its sandbox is not ready.
            UnknownError: the OCI runtime's message; the container is EXITED, 128, StartError.
            UnavailableError: the start was cut off; it may be asked for again.
        """
        record = self._find_to_start(name)
        asked = machine.StartAsked(cause=RPC)
        await self._parts.operations.join(Op.START.of(record.id), partial(self._start, record.id, asked))

    async def finish_start(self, container_id: str, cause: str) -> str:
        """Find out what became of a start that was cut off; those that ask for it meanwhile get the same answer."""
        finish = partial(self._half.finish, container_id, cause)
        return str(await self._parts.operations.join(Op.START.of(container_id), finish))

    async def start_again(self, name: str) -> None:
        """Run an EXITED container once more, with what it wrote and its limits of now; raises as `start` does."""
        record = self._find_to_start(name)
        await self._parts.operations.join(Op.START.of(record.id), partial(self._start_again, record))

    def _find_to_start(self, name: str) -> ContainerRecord:
        record = selection.find(self._parts.containers.store, "container", name)
        if self._parts.operations.running(Op.REMOVE.of(record.id)):
            raise FailedPreconditionError(f"container {record.id}: is being removed")
        return record

    async def _start_again(self, record: ContainerRecord) -> None:
        asked = machine.StartAgainAsked(cause=RPC)
        machine.decide(record, asked)
        # which would take the new shim for the old one
        await self._parts.operations.wait(Op.REAP.of(record.id))
        await self._parts.shims.remove(record.id)
        self._parts.evidence.forget(record.id)
        where = str(self._parts.record_dir(record.id))
        await anyio.to_thread.run_sync(self._parts.shims.forget_exit, where)
        held = cri.LinuxContainerResources.FromString(record.resources)
        limits = cgroups.resources(held, self._parts.cgroup_version)
        await anyio.to_thread.run_sync(bundle.replace_limits, record.bundle_path, record.cgroup, limits, None)
        await self._start(record.id, asked)

    async def _start(self, container_id: str, asked: machine.StartAsked | machine.StartAgainAsked) -> None:
        parts = self._parts
        record = parts.containers.store.get(container_id)
        if self._half.is_open(record):  # left by an earlier life of the service, or of shimd
            await self._half.finish(container_id, RPC)
            return
        sandbox = parts.sandboxes.store.get(record.sandbox_id)
        if sandbox.state is not SandboxState.READY:
            raise FailedPreconditionError(f"sandbox {sandbox.id}: is not ready")
        machine.decide(record, asked)  # refuse before anything is spawned
        parts.rouse_cgroups()
        with self._known_in_the_end(container_id), life_span("runtimed.container.start", record):
            try:
                plan = shim_plan(parts, record, sandbox.handler)
                if plan.log_path:
                    log = await anyio.to_thread.run_sync(_make_log_directory, plan.log_path, parts.host)
                    plan = msgspec.structs.replace(plan, log_path=log)
                # the fork of the shim and the write of the record do not need each other
                _, shim = await together(
                    partial(parts.containers.apply, container_id, asked), partial(parts.shims.spawn, plan)
                )
                await failpoint("runtimed.start.spawned")
                started = await self._run(record, shim.socket_path)
                await failpoint("runtimed.start.ran")
            except SlipwayError as exc:
                if await self._half.failed(container_id, exc):
                    return
                ended = parts.containers.store.find(container_id)
                if ended is not None and ended.state is ContainerState.EXITED:
                    parts.group.start_soon(self._reap, container_id)
                raise
            record_span(
                "runtimed.oci.run",
                started.runtime_begin_ns,
                started.runtime_end_ns,
                {"slipway.container.id": container_id},
                parent=record.traceparent,
            )
            fact = machine.Started(
                cause=RPC,
                pid=started.pid,
                pid_started_ticks=processes.started_ticks(started.pid),
                at_ns=started.at_ns,
                socket_path=shim.socket_path,
            )
            await parts.containers.apply(container_id, fact)
            await failpoint("runtimed.start.recorded")
            self.watch(container_id)
            if record.from_checkpoint:
                await dump.remove(parts.record_dir(container_id))

    @contextmanager
    def _known_in_the_end(self, container_id: str) -> Iterator[None]:
        """A start whose end could not be written is looked into until it is: what runs must not pass for never started."""
        try:
            yield
        except UnavailableError:
            record = self._parts.containers.store.find(container_id)
            if record is not None and record.state is ContainerState.STARTING:
                self._parts.group.start_soon(self._look_into_start, container_id)
            raise

    async def _look_into_start(self, container_id: str) -> None:
        while (record := self._parts.containers.store.find(container_id)) and (
            record.state is ContainerState.STARTING
        ):
            await anyio.sleep(AGAIN_S)
            try:
                await self.finish_start(container_id, SHIM)
            except SlipwayError as exc:
                _log.warning("start.waiting", container_id=container_id, error=exc.message)

    async def _run(self, record: ContainerRecord, socket_path: str) -> InitStarted:
        parts, limit_s = self._parts, self._parts.settings.start_timeout_s
        if record.from_checkpoint:
            images = dump.images(parts.record_dir(record.id))
            return await parts.shims.restore(socket_path, str(images), limit_s)
        return await parts.shims.start(socket_path, limit_s)

    def watch(self, container_id: str) -> None:
        """Follow a container's shim until its exit is in the record; once for each container."""
        if container_id not in self._watched:
            self._watched.add(container_id)
            self._parts.group.start_soon(self._watch, container_id, name=f"watch {container_id}")

    async def _watch(self, container_id: str) -> None:
        missing_s = 0.0
        try:
            while (record := self._parts.containers.store.find(container_id)) and record.state not in ENDED:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._doubt, record)
                    found = await self._next_exit(record)
                    group.cancel_scope.cancel()
                if found is None and not processes.alive(record.pid, record.pid_started_ticks):
                    missing_s += AGAIN_S
                lost = missing_s > GRACE_S and not await self._has_shim(container_id)
                if found is not None or lost:
                    await self.settle(container_id, found, patient=True)
                    return
                await anyio.sleep(AGAIN_S)
        except Exception:  # noqa: BLE001 - the border: one container's watch must not end the service
            _log.exception("watch.failed", container_id=container_id)
        finally:
            self._watched.discard(container_id)

    async def _doubt(self, record: ContainerRecord) -> None:
        """Once the init has ended, the shim has some time to tell; then its state is not known."""
        await processes.ended(record.pid, record.pid_started_ticks)
        await anyio.sleep(SILENT_S)
        if await self._has_shim(record.id):
            await self._write_end(record.id, machine.Silent(cause=SHIM), patient=True)

    async def _has_shim(self, container_id: str) -> bool:
        try:
            shims, _ = await self._parts.shims.list()
        except SlipwayError:
            return True  # it can come back, for all that is known
        return any(shim.container_id == container_id and shim.alive for shim in shims)

    async def _next_exit(self, record: ContainerRecord) -> InitExit | None:
        try:
            async for news in self._parts.shims.follow(record.socket_path):
                if isinstance(news, InitExit):
                    return news
                self._heard(record, news)
        except SlipwayError as exc:
            _log.debug("shim.silent", container_id=record.id, error=exc.message)
        return await anyio.to_thread.run_sync(
            self._parts.shims.read_exit, str(self._parts.record_dir(record.id))
        )

    def _heard(self, record: ContainerRecord, news: ExecNews) -> None:
        self._parts.group.start_soon(self._execs.tell, record.id, news)

    async def settle(self, container_id: str, found: InitExit | None, *, patient: bool = False) -> None:
        """Write a container's end, once; None is one that nobody saw. What is `patient` waits for Redis as long as it takes.

        Raises:
            UnavailableError: Redis does not answer.
        """
        record = self._parts.containers.store.find(container_id)
        kept = record.marks if record else []
        at_ns = found.finished_at_ns if found else now_ns()
        if found is None:
            kept = [*kept, Mark(at_ns=now_ns(), what="no-shim")]
        elif record is not None and self._parts.is_of_earlier_boot(record.sandbox_id):
            kept = [*kept, Mark(at_ns=now_ns(), what="shutdown")]
        marks = self._parts.evidence.of(container_id, kept, at_ns)
        if found is None:
            fact: machine.ContainerEvent = machine.Lost(cause=SHIM, at_ns=at_ns, evidence={"marks": marks})
        else:
            told = {
                "marks": marks,
                "memory": found.memory,
                "pids": found.pids,
                "dropped_bytes": found.dropped_bytes,
            }
            fact = machine.Exited(
                cause=SHIM,
                exit_code=found.exit_code,
                signal=found.signal,
                oom_killed=found.oom_killed,
                at_ns=at_ns,
                pid=found.pid,
                started_at_ns=found.started_at_ns,
                evidence=told,
            )
        await failpoint("runtimed.exit.heard")
        written = await self._write_end(container_id, fact, patient=patient)
        await failpoint("runtimed.exit.recorded")
        if written is not None and machine.Reap() in written[1]:
            if found is not None:
                meters.LOG_BYTES.inc(found.log_bytes)
                meters.LOG_DROPPED.inc(found.dropped_bytes)
            ended = written[0]
            facts: dict[str, str | int] = {
                "slipway.object.id": container_id,
                "slipway.exit_code": ended.exit_code,
            }
            record_span(
                "runtimed.container.exit", ended.finished_at_ns, now_ns(), facts, parent=ended.traceparent
            )
            self._parts.group.start_soon(self._reap, container_id)

    async def _write_end(
        self, container_id: str, fact: machine.ContainerEvent, *, patient: bool
    ) -> machine.Outcome | None:
        try:
            while True:
                try:
                    return await self._parts.containers.apply(container_id, fact)
                except NotFoundError:
                    return None
                except UnavailableError as exc:
                    if not patient:
                        raise
                    self._untold[container_id] = exc.message
                    _log.warning("exit.waiting", container_id=container_id, error=exc.message)
                await anyio.sleep(AGAIN_S)
        finally:
            self._untold.pop(container_id, None)

    async def _reap(self, container_id: str) -> None:
        try:
            remove = partial(self._parts.shims.remove, container_id)
            await self._parts.operations.join(Op.REAP.of(container_id), remove)
        except SlipwayError as exc:  # the reconciler tries again
            _log.warning("shim.kept", container_id=container_id, error=exc.message)

    async def stop(self, name: str, timeout_s: int) -> None:
        """End a container: its stop signal, `timeout_s` of grace, SIGKILL. Idempotent; concurrent calls share.

        Raises:
            DeadlineExceededError: it lives on after SIGKILL; the next call tries again.
            UnavailableError: nobody can say by now whether it was started, or its end cannot be written down.
        """
        record = selection.find_or_none(self._parts.containers.store, "container", name)
        if record is None:
            return
        record = await self._started_or_not(record.id)
        if record is None or not (record.state.has_init or record.state is ContainerState.UNKNOWN):
            return
        kill_at = anyio.current_time() + max(0, timeout_s)
        going = self._stops.get(record.id)
        if going is not None and kill_at < going.kill_at:
            going.kill_at = kill_at
            going.sooner.set()
        if going is None:
            self._stops[record.id] = _Stop(kill_at)
        await self._parts.operations.join(Op.STOP.of(record.id), partial(self._stop, record.id, timeout_s))

    async def _started_or_not(self, container_id: str) -> ContainerRecord | None:
        """The record once it is known whether the container was started; None when it is gone."""
        await self._parts.operations.wait(Op.START.of(container_id))
        record = self._parts.containers.store.find(container_id)
        if record is None or record.state is not ContainerState.STARTING:
            return record
        try:
            await self.finish_start(container_id, RPC)
        except (UnavailableError, DeadlineExceededError):
            record = self._parts.containers.store.find(container_id)
            if record is not None and record.state is ContainerState.STARTING:
                raise
        return self._parts.containers.store.find(container_id)

    async def _stop(self, container_id: str, timeout_s: int) -> None:
        parts = self._parts
        stop = self._stops[container_id]
        record = parts.containers.store.get(container_id)
        try:
            with life_span("runtimed.container.stop", record):
                fact = ContainerStopRequested(
                    id=container_id,
                    sandbox_id=record.sandbox_id,
                    signal=signals.name(record.stop_signal),
                    timeout_s=max(0, timeout_s),
                )
                parts.evidence.add(container_id, "stop", signal=fact.signal, timeout_s=fact.timeout_s)
                marks = parts.evidence.of(container_id, record.marks)
                await parts.containers.amend(container_id, fact, marks=marks)
                await failpoint("runtimed.stop.recorded")
                if record.state is ContainerState.PAUSED:
                    await self._holds.release(record, RPC)
                if stop.kill_at > anyio.current_time() and record.state is not ContainerState.UNKNOWN:
                    await self._signal(record, record.stop_signal, everyone=False)
                    await failpoint("runtimed.stop.signalled")
                    if await self._ended_before_kill(container_id, stop):
                        return
                    parts.evidence.add(container_id, "kill", timeout_s=fact.timeout_s)
                await self._kill(record)
        finally:
            del self._stops[container_id]

    async def _ended_before_kill(self, container_id: str, stop: _Stop) -> bool:
        while (left_s := stop.kill_at - anyio.current_time()) > 0:
            stop.sooner = anyio.Event()
            if await self._ended(container_id, left_s, stop.sooner):
                return True
        return False

    async def _ended(self, container_id: str, within_s: float, sooner: anyio.Event | None = None) -> bool:
        """Wait for the end, the time, or a sooner time."""
        done = False
        with anyio.move_on_after(within_s):
            async with anyio.create_task_group() as group:
                if sooner is not None:
                    group.start_soon(_cancel_on, sooner, group.cancel_scope)
                await self._parts.containers.until(container_id, lambda r: r.state in ENDED)
                done = True
                group.cancel_scope.cancel()
        return done

    async def _kill(self, record: ContainerRecord) -> None:
        give_up_at = anyio.current_time() + self._parts.settings.kill_wait_s
        while anyio.current_time() < give_up_at:
            known = self._parts.containers.store.find(record.id)
            if known is not None and known.state is ContainerState.UNKNOWN:
                await self._end_unknown(record.id)
                return
            await self._signal(record, signals.SIGKILL, everyone=True)
            if await self._ended(record.id, KILL_AGAIN_S):
                return
            if record.id in self._untold:
                raise UnavailableError(f"container {record.id}: has ended, but {self._untold[record.id]}")
        where = await anyio.to_thread.run_sync(_blocked_in, record.pid)
        raise DeadlineExceededError(f"container {record.id}: lives on after SIGKILL{where}")

    async def settle_dead(self, record: ContainerRecord) -> None:
        """Write the end of a container whose shim is gone for sure, unless its init lives on all the same."""
        if not processes.alive(record.pid, record.pid_started_ticks):
            await self._settle_from_disk(record.id)

    async def _end_unknown(self, container_id: str) -> None:
        """Nobody tells whether it runs: end it with its shim, and take what that has left of an exit."""
        await self._parts.shims.remove(container_id, force=True)
        await self._settle_from_disk(container_id)

    async def _settle_from_disk(self, container_id: str) -> None:
        where = str(self._parts.record_dir(container_id))
        await self.settle(container_id, await anyio.to_thread.run_sync(self._parts.shims.read_exit, where))

    async def _signal(self, record: ContainerRecord, number: int, *, everyone: bool) -> None:
        try:
            with anyio.fail_after(SIGNAL_S):
                await self._parts.shims.kill(record.socket_path, number, everyone=everyone)
        except FailedPreconditionError:
            return  # it has ended; the watch hears of it
        except (UnavailableError, DeadlineExceededError, TimeoutError):
            processes.send(record.pid, record.pid_started_ticks, number)

    def forget(self, container_id: str) -> None:
        """Drop what is held in memory of a removed container."""
        self._execs.forget(container_id)
        self._parts.evidence.forget(container_id)


async def _cancel_on(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _make_log_directory(path: str, host: HostRoot) -> str:
    """Where the shim writes a log whose path on the host this is."""
    try:
        found = host.here(path)
        Path(found).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        return found
    except OSError as exc:
        raise UnknownError(f"log_directory: {path}: {exc.strerror}") from exc


def _blocked_in(pid: int) -> str:
    """Where in the kernel a process sleeps that no signal ends."""
    try:
        place = Path(f"/proc/{pid}/wchan").read_text().strip()
    except OSError:
        return ""
    return f": blocked in the kernel at {place}" if place and place != "0" else ""
