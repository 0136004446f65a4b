"""Signals that people send."""

from common.errors import FailedPreconditionError, InvalidArgumentError
from common.events.schema import ContainerSignalled
from runtimed import processes, selection, signals
from runtimed.machine.causes import RPC
from runtimed.record import ContainerState
from runtimed.use.parts import Parts
from runtimed.use.task.holds import Holds


class Signals:
    """Signals to the inits of this node's containers, by their shims."""

    def __init__(self, parts: Parts, holds: Holds) -> None:
        self._parts, self._holds = parts, holds

    async def send(self, name: str, number: int) -> None:
        """Signal the init. One that is paused gets it when it runs on; its stop signal and SIGKILL let it run.

        Raises:
            InvalidArgumentError: there is no such signal.
            FailedPreconditionError: it does not run.
        """
        if number not in signals.ALL:
            raise InvalidArgumentError(f"signal: {number} is none")
        record = selection.find(self._parts.containers.store, "container", name)
        if not record.state.has_init:
            raise FailedPreconditionError(f"container {record.id}: is {record.state}, not running")
        fact = ContainerSignalled(id=record.id, sandbox_id=record.sandbox_id, signal=signals.name(number))
        self._parts.evidence.add(record.id, "signal", signal=fact.signal)
        marks = self._parts.evidence.of(record.id, record.marks)
        await self._parts.containers.amend(record.id, fact, marks=marks)
        if record.state is ContainerState.PAUSED:
            if number not in (signals.SIGKILL, record.stop_signal):
                processes.send(record.pid, record.pid_started_ticks, number)
                return
            await self._holds.release(record, RPC)
        await self._parts.shims.kill(record.socket_path, number, everyone=False)
