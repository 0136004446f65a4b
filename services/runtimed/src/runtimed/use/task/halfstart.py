"""Starts that were cut off: by the end of this service or of shimd, by a shim that died. What the shim did counts."""

from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread

from common.clock import now_ns
from common.errors import DeadlineExceededError, SlipwayError, UnavailableError
from runtimed import processes
from runtimed.machine import container as machine
from runtimed.machine.causes import RPC
from runtimed.ports import InitExit, InitPhase, InitState, ShimState
from runtimed.record import ContainerRecord, ContainerState
from runtimed.use.parts import Parts

AGAIN_S = 0.05
YOUNG_S = 0.5


class HalfStarts:
    """Finds out what became of starts.

    Args:
        parts: of this node.
        settle: writes an end that is known, or that nobody knows.
        watch: follows a container that runs.
    """

    def __init__(
        self,
        parts: Parts,
        settle: Callable[[str, InitExit | None], Awaitable[None]],
        watch: Callable[[str], None],
    ) -> None:
        self._parts, self._settle, self._watch = parts, settle, watch

    def is_open(self, record: ContainerRecord) -> bool:
        """Whether it is not known what became of a container's start."""
        return record.state is ContainerState.STARTING or (
            record.state is ContainerState.UNKNOWN and not record.pid
        )

    async def failed(self, container_id: str, error: SlipwayError) -> bool:
        """Write down how a start ended that answered with an error; whether the container was started all the same.

        Raises:
            UnavailableError: the start was cut off, and may be asked for again.
        """
        record = self._parts.containers.store.find(container_id)
        if record is None or record.state is not ContainerState.STARTING:
            return False  # nothing was written: a retry may work
        if isinstance(error, UnavailableError | DeadlineExceededError):
            try:
                await self.finish(container_id, RPC)
            except UnavailableError as exc:
                raise UnavailableError(f"{exc.message} ({error.message})") from exc
            return True
        fact = machine.StartFailed(cause=RPC, message=error.message, at_ns=now_ns())
        await self._parts.containers.apply(container_id, fact)
        return False

    async def finish(self, container_id: str, cause: str) -> str:
        """Take a start to where its shim has brought it, and say where that is.

        Raises:
            UnavailableError: the container never ran and is CREATED again, or nobody can say by now.
        """
        parts, young = self._parts, False
        while (record := parts.containers.store.find(container_id)) and self.is_open(record):
            where = str(parts.record_dir(container_id))
            exited = await anyio.to_thread.run_sync(parts.shims.read_exit, where)
            shims, _ = await parts.shims.list()
            shim = next((one for one in shims if one.container_id == container_id), None)
            if exited is not None:
                await self._settle(container_id, exited)
                return "an exit that happened meanwhile was taken"
            if shim is not None and not shim.pid and not young:
                # shimd died between its directory and its fork, or it has not said yet who it is
                young = True
                await anyio.sleep(YOUNG_S)
                continue
            if shim is not None and not shim.pid:
                shim = None
            if shim is not None and not shim.alive:
                await self._settle(container_id, None)
                await parts.shims.remove(container_id)
                raise UnavailableError(f"container {container_id}: its shim died while it was started")
            init = await self._init(container_id, shim)
            if shim is not None and init.phase in (InitPhase.RUNS, InitPhase.ENDED):
                await self._adopt(record, shim, init, cause)
                return "a container that was being started was adopted"
            if init.phase is InitPhase.NONE:
                await parts.shims.remove(container_id)
                await parts.containers.apply(container_id, machine.NotStarted(cause=cause))
                raise UnavailableError(f"container {container_id}: its start was cut off: ask again")
            await anyio.sleep(AGAIN_S)
        return "it had ended"

    async def _init(self, container_id: str, shim: ShimState | None) -> InitState:
        if shim is None:
            return InitState(phase=InitPhase.NONE)
        try:
            return await self._parts.shims.init_of(shim.socket_path)
        except (UnavailableError, DeadlineExceededError):
            shims, _ = await self._parts.shims.list()
            if any(one.container_id == container_id and one.alive for one in shims):
                await self._parts.containers.apply(container_id, machine.Silent(cause=RPC))
                raise
            return InitState(phase=InitPhase.BEGINS)  # it has died just now

    async def _adopt(self, record: ContainerRecord, shim: ShimState, init: InitState, cause: str) -> None:
        fact = machine.Started(
            cause=cause,
            pid=init.pid,
            pid_started_ticks=processes.started_ticks(init.pid),
            at_ns=init.at_ns,
            socket_path=shim.socket_path,
        )
        await self._parts.containers.apply(record.id, fact)
        self._watch(record.id)
