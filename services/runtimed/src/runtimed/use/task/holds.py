"""Containers that people hold still."""

from functools import partial

import anyio
import anyio.to_thread

from common.errors import FailedPreconditionError, SlipwayError, UnknownError
from runtimed import selection
from runtimed.checkpoint import freezer
from runtimed.machine import container as machine
from runtimed.machine.causes import RPC
from runtimed.ops import Op
from runtimed.record import ContainerRecord, ContainerState
from runtimed.use.lifespan import life_span
from runtimed.use.parts import Parts


class Holds:
    """Pause and resume, by the OCI runtime."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def pause(self, name: str) -> None:
        """Hold every process of a container still.

        Raises:
            FailedPreconditionError: it does not run, stands still already, or is being stopped or dumped.
            UnknownError: the OCI runtime's message.
            DeadlineExceededError: a process cannot be held; all run on.
            UnavailableError: that it is paused cannot be written; all run on.
        """
        record = selection.find(self._parts.containers.store, "container", name)
        if record.state is not ContainerState.RUNNING:
            raise FailedPreconditionError(f"container {record.id}: is {record.state}, not running")
        for key, what in (
            (Op.STOP.of(record.id), "stopped"),
            (Op.CHECKPOINT.of(record.sandbox_id), "dumped"),
        ):
            if self._parts.operations.running(key):
                raise FailedPreconditionError(f"container {record.id}: is being {what}")
        await self._parts.operations.join(Op.PAUSE.of(record.id), partial(self._pause, record))

    async def _pause(self, record: ContainerRecord) -> None:
        with life_span("runtimed.container.pause", record):
            try:
                await self._parts.shims.pause(record.socket_path, record.id)
                if record.cgroup is not None and not self._sandboxed(record):
                    await freezer.until_frozen(record.cgroup)
                await self._parts.containers.apply(record.id, machine.Paused(cause=RPC))
            except SlipwayError:
                with anyio.CancelScope(shield=True):
                    await self._let_run(record)
                raise

    async def resume(self, name: str) -> None:
        """Let a paused container run on.

        Raises:
            FailedPreconditionError: it is not paused.
            UnknownError: the OCI runtime's message.
        """
        record = selection.find(self._parts.containers.store, "container", name)
        await self._parts.operations.wait(Op.PAUSE.of(record.id))
        record = self._parts.containers.store.get(record.id)
        if record.state is not ContainerState.PAUSED:
            raise FailedPreconditionError(f"container {record.id}: is {record.state}, not paused")
        await self._parts.operations.join(Op.RESUME.of(record.id), partial(self._resume, record))

    async def _resume(self, record: ContainerRecord) -> None:
        with life_span("runtimed.container.resume", record):
            try:
                await self._parts.shims.resume(record.socket_path, record.id)
            except UnknownError:
                if not await self._runs_already(record):
                    raise
            await self._parts.containers.apply(record.id, machine.Resumed(cause=RPC))

    async def _runs_already(self, record: ContainerRecord) -> bool:
        """Whether an earlier resume could let it run, and could not write so."""
        if record.cgroup is None or self._sandboxed(record):
            return False
        return not await anyio.to_thread.run_sync(freezer.frozen, record.cgroup)

    async def release(self, record: ContainerRecord, cause: str) -> None:
        """Let a container run so that it can end; one that ended meanwhile is no error."""
        await self._let_run(record)
        try:
            await self._parts.containers.apply(record.id, machine.Resumed(cause=cause))
        except FailedPreconditionError:
            return

    async def _let_run(self, record: ContainerRecord) -> None:
        try:
            await self._parts.shims.resume(record.socket_path, record.id)
        except SlipwayError:  # the runtime says so of one that is not paused, too
            if record.cgroup is not None:
                await freezer.thaw(record.cgroup)

    async def follow(self, record: ContainerRecord, cause: str) -> str:
        """Call a container what its cgroup says that it is; returns what was wrong, empty when nothing was."""
        busy = (Op.PAUSE.of(record.id), Op.RESUME.of(record.id), Op.CHECKPOINT.of(record.sandbox_id))
        if record.cgroup is None or self._sandboxed(record) or any(map(self._parts.operations.running, busy)):
            return ""
        still = await anyio.to_thread.run_sync(freezer.frozen, record.cgroup)
        if still and record.state is ContainerState.RUNNING:
            await self._parts.containers.apply(record.id, machine.Paused(cause=cause))
            return "a container that stands still is paused"
        if not still and record.state is ContainerState.PAUSED:
            await self._parts.containers.apply(record.id, machine.Resumed(cause=cause))
            return "a paused container that runs is running"
        return ""

    def _sandboxed(self, record: ContainerRecord) -> bool:
        sandbox = self._parts.sandboxes.store.get(record.sandbox_id)
        return self._parts.handler(sandbox.handler)[1].sandboxed
