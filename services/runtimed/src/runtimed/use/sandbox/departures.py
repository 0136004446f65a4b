"""Pods that go by themselves when their containers have ended, as those of `run --rm`.

Who needs a container beyond its end keeps it: the exit code and the log are there until nobody does. An end and the
last keeper's leaving are looked at when they come; what happened while runtimed was away, at the next round of the
reconciler, after keepers had time to come back.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from common.clock import now_ns
from common.errors import SlipwayError
from common.events.schema import Event
from common.observe.log import get_logger
from runtimed import convert, selection
from runtimed.record import ContainerRecord, ContainerState, SandboxRecord
from runtimed.use.parts import Parts
from runtimed.use.sandbox.sandboxes import Sandboxes

KEEP_AGAIN_S = 5.0
"""How long after the start of the service keepers may take to come back."""
FORSAKEN_NS = 120 * 1_000_000_000
"""What was made so long ago, to be started at once, and is kept by nobody, will not be started any more."""
_ENDED = (ContainerState.EXITED, ContainerState.REMOVING)
_log = get_logger("departure")


class Departures:
    """Removes what has ended and is kept by nobody."""

    def __init__(self, parts: Parts, sandboxes: Sandboxes) -> None:
        self._parts = parts
        self._sandboxes = sandboxes
        self._keepers: Counter[str] = Counter()
        self._earlier: frozenset[str] = frozenset()
        self._until = 0.0
        parts.containers.store.on_change(self._changed)

    def begin(self) -> None:
        """Give the keepers of all pods that are there, as the records are loaded, time to come back."""
        self._earlier = frozenset(record.id for record in self._parts.sandboxes.store.all())
        self._until = anyio.current_time() + KEEP_AGAIN_S

    @contextmanager
    def keep(self, name: str) -> Iterator[None]:
        """Hold a container back from going.

        Raises:
            NotFoundError: there is none.
        """
        record = selection.find(self._parts.containers.store, "container", name)
        self._keepers[record.id] += 1
        _log.info("container.kept", id=record.id)
        try:
            yield
        finally:
            self._keepers[record.id] -= 1
            if not self._keepers[record.id]:
                del self._keepers[record.id]
                self._parts.group.start_soon(partial(self._leave, record.sandbox_id, left=True))

    async def again(self) -> None:
        """Look at all that may go; for the reconciler."""
        for record in self._parts.sandboxes.store.all():
            if record.remove_ended:
                self._parts.group.start_soon(self._leave, record.id)

    def _changed(self, record: ContainerRecord, _facts: Sequence[Event]) -> None:
        sandbox = self._parts.sandboxes.store.find(record.sandbox_id)
        if sandbox is not None and sandbox.remove_ended and record.state is ContainerState.EXITED:
            self._parts.group.start_soon(self._leave, sandbox.id)

    async def _leave(self, sandbox_id: str, *, left: bool = False) -> None:
        """Remove a sandbox, if it may go; `left` says that its last keeper has gone just now."""
        if sandbox_id in self._earlier:
            await anyio.sleep_until(self._until)
        sandbox = self._parts.sandboxes.store.find(sandbox_id)
        if sandbox is None or not sandbox.remove_ended:
            return
        members = self._parts.containers_of(sandbox_id)
        if not all(self._may_go(sandbox, member, left=left) for member in members):
            return
        if not members and not (sandbox.remove_unstarted and _is_forsaken(sandbox)):
            return
        logs = [member.log_path for member in members if member.log_path]
        try:
            await self._sandboxes.remove(sandbox_id)
        except SlipwayError as exc:  # the reconciler tries again
            _log.warning("sandbox.kept", sandbox_id=sandbox_id, error=exc.message)
            return
        await anyio.to_thread.run_sync(_drop_logs, logs, _log_directory(sandbox))

    def _may_go(self, sandbox: SandboxRecord, record: ContainerRecord, *, left: bool) -> bool:
        if self._keepers[record.id]:
            return False
        if record.state is not ContainerState.CREATED:
            return record.state in _ENDED
        return sandbox.remove_unstarted and (left or _is_forsaken(record))


def _is_forsaken(record: SandboxRecord | ContainerRecord) -> bool:
    return now_ns() - record.created_at_ns > FORSAKEN_NS


def _log_directory(record: SandboxRecord) -> str:
    return convert.sandbox_config(record).log_directory


def _drop_logs(logs: list[str], directory: str) -> None:
    """Remove the logs, and their directory when nothing else is in it. Blocking."""
    try:
        for path in logs:
            Path(path).unlink(missing_ok=True)
        if directory:
            Path(directory).rmdir()
    except OSError as exc:
        _log.warning("logs.kept", directory=directory, error=str(exc))
