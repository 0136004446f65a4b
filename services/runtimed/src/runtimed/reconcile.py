"""Records against the machine, at start and every minute: adopt, settle or remove, with an event for each repair.

Containers first: what shims tell, and what they left on disk, is the truth about processes. Then sandboxes, by
their pinned namespaces. Then what has no record: networks, bundles, sandbox directories, shims, snapshots.

What may wait for others, as a network plugin may for its agent, goes on beside the rounds: that agent can be a pod
which is mended by the same round.
"""

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import SlipwayError, UnavailableError
from common.events.schema import NodeRepaired
from common.observe.log import get_logger
from common.operations import Key
from common.records import RecordStore
from runtimed import convert, meters
from runtimed.machine import sandbox as sandboxes
from runtimed.machine.causes import RECONCILE
from runtimed.network.cni import Attachment
from runtimed.ops import Op
from runtimed.ports import PauseState, ShimState
from runtimed.record import ContainerRecord, ContainerState, SandboxRecord, SandboxState
from runtimed.service import Service
from runtimed.use.bundles import bundle, imagemounts
from runtimed.use.ground import network, pause
from runtimed.use.sandbox.sandboxes import remove_empty

R = TypeVar("R", ContainerRecord, SandboxRecord)
RETRY_S = 0.5
AGAIN_S = 5.0
"""How long a round waits for the next when it failed."""
PACE_S = 0.002
REBOOTED = "the machine was booted again"
_log = get_logger("reconcile")


class Reconciler:
    """Compares and mends; safe to run beside requests."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._parts = service.parts
        self._strays: set[str] = set()
        """Snapshots that had no container in the last round: one being made may be ahead of its record."""
        self._unowned: dict[Path, set[str]] = {}
        """The same of what is in a directory; at first all that was there before requests came."""
        self._going: set[str] = set()
        """What is being mended beside the rounds."""
        self._earlier: set[str] = set()
        """Containers of an earlier life of the service, which a checkpoint of that life may still hold."""

    async def load(self) -> None:
        """Read the records and see what is there; waits for Redis."""
        for directory, find in self._places():
            self._unowned[directory] = await anyio.to_thread.run_sync(find, directory)
        for store in (self._parts.sandboxes.store, self._parts.containers.store):
            corrupt = await self._read(store)
            if corrupt:
                _log.error("records.corrupt", ids=corrupt)
        self._earlier = {record.id for record in self._parts.containers.store.all()}
        try:
            await self._end_earlier_boot()
        except UnavailableError as exc:  # a round does the same
            _log.warning("records.waiting", error=exc.message)
        self._service.departures.begin()

    async def _end_earlier_boot(self) -> None:
        """What the reboot of the machine ended is not called ready or running: a kubelet asks as soon as we answer."""
        parts = self._parts
        for pod in parts.sandboxes.store.all():
            if pod.state is SandboxState.READY and parts.is_of_earlier_boot(pod.id):
                await parts.sandboxes.apply(pod.id, sandboxes.Broken(cause=RECONCILE, reason=REBOOTED))
                await self._repaired(pod.id, REBOOTED)
        for record in parts.containers.store.all():
            if record.state.has_init and parts.is_of_earlier_boot(record.sandbox_id):
                try:
                    await self._service.tasks.settle_dead(record)
                except OSError as exc:  # of a disk with errors; the rounds try again
                    _log.warning("reconcile.skipped", id=record.id, error=str(exc))

    async def watch(self) -> None:
        """Follow all that runs, one after the other: each shim that slept forks for it, and callers wait meanwhile."""
        for record in self._parts.containers.store.all():
            if record.pid and (record.state.has_init or record.state is ContainerState.UNKNOWN):
                self._service.tasks.watch(record.id)
                await anyio.sleep(PACE_S)
        for sandbox in self._parts.sandboxes.store.all():
            pause.watch(self._parts, sandbox)

    async def _read(self, store: RecordStore[Any]) -> list[str]:
        while True:
            try:
                return await store.load()
            except UnavailableError as exc:
                _log.warning("records.waiting", error=exc.message)
            await anyio.sleep(RETRY_S)

    async def run(self) -> None:
        """Reconcile for ever."""
        every_s = self._parts.settings.reconcile_every_s
        while True:
            next_s = min(AGAIN_S, every_s)
            try:
                await self.once()
                next_s = every_s
            except UnavailableError as exc:
                _log.warning("reconcile.waiting", error=exc.message)
            except Exception:  # noqa: BLE001 - the border: a failed round must not end the service
                _log.exception("reconcile.failed")
            await anyio.sleep(next_s)

    async def once(self) -> None:
        """One round."""
        pods, records = self._parts.sandboxes.store.all(), self._parts.containers.store.all()
        shims, pauses = await self._parts.shims.list()
        by_id = {shim.container_id: shim for shim in shims}
        for pod in pods:
            if self._parts.sandboxes.store.find(pod.id) is pod:
                await self._guard(pod.id, partial(self._sandbox, pod, pauses))
        for record in records:
            # one that moved since may have a shim that the list has not: it waits for the next round, as do those of a
            # sandbox that is being mended, which may go
            unmoved = self._parts.containers.store.find(record.id) is record
            if unmoved and record.sandbox_id not in self._going:
                shim = by_id.get(record.id)
                await self._guard(record.id, partial(self._container, record, shim))
        await self._orphans(shims, pauses)
        for name in await self._service.checkpoints.remove_left():
            await self._repaired(name, "what a checkpoint that was cut off had written was removed")
        self._service.stats.forget_gone()
        await self._service.departures.again()

    async def _guard(self, name: str, mend: Callable[[], Awaitable[None]]) -> None:
        try:
            await mend()
        except (SlipwayError, OSError) as exc:
            _log.warning("reconcile.skipped", id=name, error=str(exc))

    def _begin(self, name: str, mend: Callable[[], Awaitable[None]]) -> None:
        """Start a repair that may take long, unless it goes on already; no round waits for it."""
        if name not in self._going:
            self._going.add(name)
            self._parts.group.start_soon(self._to_its_end, name, mend, name=f"repair of {name}")

    async def _to_its_end(self, name: str, mend: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._guard(name, mend)
        except Exception:  # noqa: BLE001 - the border: a failed repair must not end the service
            _log.exception("reconcile.failed", id=name)
        finally:
            self._going.discard(name)

    async def _container(self, record: ContainerRecord, shim: ShimState | None) -> None:
        match record.state:
            case ContainerState.CREATING if not self._is_being_made(record):
                wanted = pb.CreateContainerRequest.FromString(record.request)
                finish = partial(self._service.containers.set_up, record, wanted, known=True)
                store, key = self._parts.containers.store, Op.CREATE.of(record.key)
                self._begin(record.id, partial(self._resume, store, record, key, finish))
            case ContainerState.STARTING if not self._parts.operations.running(Op.START.of(record.id)):
                self._begin(record.id, partial(self._half_started, record.id))
            case ContainerState.UNKNOWN if not record.pid:
                self._begin(record.id, partial(self._half_started, record.id))
            case ContainerState.RUNNING | ContainerState.PAUSED | ContainerState.UNKNOWN:
                self._service.tasks.watch(record.id)
                await self._thaw(record)
                if what := await self._service.holds.follow(record, RECONCILE):
                    await self._repaired(record.id, what)
            case ContainerState.EXITED if shim is not None:
                self._begin(record.id, partial(self._reap, record.id))
            case ContainerState.REMOVING:
                self._begin(record.id, partial(self._service.containers.remove, record.id))
            case _:
                return

    def _is_being_made(self, record: ContainerRecord) -> bool:
        """Whether a request makes it, by itself or with its restored pod.

        If none does, the set-up was cut off, or given up while its record could neither be written nor removed.
        """
        running = self._parts.operations.running
        pod = self._parts.sandboxes.store.find(record.sandbox_id)
        return running(Op.CREATE.of(record.key)) or (pod is not None and running(Op.RESTORE.of(pod.key)))

    async def _thaw(self, record: ContainerRecord) -> None:
        if record.id in self._earlier and not self._parts.operations.running(
            Op.CHECKPOINT.of(record.sandbox_id)
        ):
            if await self._service.checkpoints.thaw_left(record):
                await self._repaired(record.id, "a container that a checkpoint held still runs on")
            self._earlier.discard(record.id)

    async def _reap(self, container_id: str) -> None:
        if not self._parts.operations.running(Op.START.of(container_id)):  # which may have a new shim
            remove = partial(self._parts.shims.remove, container_id)
            await self._parts.operations.join(Op.REAP.of(container_id), remove)

    async def _half_started(self, container_id: str) -> None:
        """Runtimed died while its shim started a container: what the shim did counts."""
        try:
            what = await self._service.tasks.finish_start(container_id, RECONCILE)
        except UnavailableError as exc:
            what = exc.message
        except SlipwayError as exc:
            _log.warning("reconcile.skipped", id=container_id, error=exc.message)
            return
        record = self._parts.containers.store.find(container_id)
        if record is not None and record.state not in (ContainerState.STARTING, ContainerState.UNKNOWN):
            await self._guard(container_id, partial(self._repaired, container_id, what))

    async def _sandbox(self, record: SandboxRecord, pauses: list[PauseState]) -> None:
        key = Op.SET_UP_SANDBOX.of(record.key)
        if record.restoring:
            if not self._parts.operations.running(Op.RESTORE.of(record.key)):
                self._begin(record.id, partial(self._discard, record))
        elif record.state is SandboxState.CREATING and not self._parts.operations.running(key):
            store = self._parts.sandboxes.store
            finish = partial(self._set_up_again, record)
            self._begin(record.id, partial(self._resume, store, record, key, finish))
        elif record.state is SandboxState.REMOVING:
            self._begin(record.id, partial(self._service.sandboxes.remove, record.id))
        elif record.state is SandboxState.READY:
            reason = self._broken(record, pauses)
            if reason:
                await self._parts.sandboxes.apply(record.id, sandboxes.Broken(cause=RECONCILE, reason=reason))
                await self._repaired(record.id, reason)

    async def _discard(self, record: SandboxRecord) -> None:
        await self._service.sandboxes.discard(record)
        await self._repaired(record.id, "a restore that was cut off was undone")

    async def _set_up_again(self, record: SandboxRecord) -> None:
        await self._service.sandboxes.tear_down(record)
        await self._service.sandboxes.set_up(record, convert.sandbox_config(record))

    def _broken(self, record: SandboxRecord, pauses: list[PauseState]) -> str:
        if self._parts.is_of_earlier_boot(record.id):
            return REBOOTED
        if not self._parts.sandbox_dir(record.id).is_dir():
            return "its directory is gone"  # all that a pod on the node's namespaces has
        for kind, path in record.namespaces.items():
            if not network.is_pinned(path):
                return f"its {kind} namespace is gone"
        alive = {pause.sandbox_id for pause in pauses if pause.alive}
        return pause.ENDED if record.pause_pid and record.id not in alive else ""

    async def _resume(
        self, store: RecordStore[R], record: R, key: Key, finish: Callable[[], Awaitable[None]]
    ) -> None:
        async def work() -> str:
            await finish()
            return record.id  # a request that joins gets it

        if store.find(record.id) is record:  # no request has done so since
            await self._parts.operations.join(key, work)
            await self._repaired(record.id, "a set-up that was cut off was finished")

    async def _orphans(self, shims: list[ShimState], pauses: list[PauseState]) -> None:
        parts = self._parts
        # before the records: a sandbox has its record before it has a network
        attached = await anyio.to_thread.run_sync(parts.cni.cached)
        known = {record.id for record in parts.containers.store.all()}
        pods = self._pods()
        for wish in attached:
            if wish.sandbox_id not in pods:
                self._begin(f"network of {wish.sandbox_id}", partial(self._release, wish))
        # a network is released in the namespaces; they go in the round after that
        in_use = pods | {wish.sandbox_id for wish in attached}
        for shim in shims:
            if shim.container_id not in known:
                await self._guard(shim.container_id, partial(self._remove_shim, shim))
        for left in pauses:
            if left.sandbox_id not in pods:
                await self._guard(left.sandbox_id, partial(self._remove_pause, left.sandbox_id))
        strays = {key for key in await parts.snapshots.keys() if imagemounts.owner(key) not in known}
        for name in strays & self._strays:
            await self._guard(name, partial(self._remove_snapshot, name))
        self._strays = strays
        for (directory, find), remove, owners in zip(
            self._places(),
            (self._remove_bundle, self._remove_files, self._remove_namespaces, self._remove_pod_files),
            (known, known, in_use, pods),
            strict=True,
        ):
            unowned = await anyio.to_thread.run_sync(find, directory) - owners
            for name in unowned & self._unowned[directory]:
                await self._guard(name, partial(remove, name))
            self._unowned[directory] = unowned

    def _places(self) -> Iterable[tuple[Path, Callable[[Path], set[str]]]]:
        """Where containers and sandboxes have directories, and what finds those there that may be nobody's."""
        parts = self._parts
        return (
            (parts.run_dir / "bundles", _names),
            (parts.data_dir / "containers", _without_record),
            (parts.run_dir / "sandboxes", _names),
            (parts.data_dir / "sandboxes", _without_record),
        )

    def _pods(self) -> set[str]:
        """The sandboxes that are there: what runs has one, though its record be lost."""
        running = {
            record.sandbox_id
            for record in self._parts.containers.store.all()
            if record.state.has_init or record.state in (ContainerState.STARTING, ContainerState.UNKNOWN)
        }
        return running | {record.id for record in self._parts.sandboxes.store.all()}

    async def _release(self, wish: Attachment) -> None:
        if wish in await anyio.to_thread.run_sync(self._parts.cni.cached):  # not released since
            await self._parts.cni.delete(wish)
            await self._repaired(wish.sandbox_id, "the network of a sandbox without a record was released")

    async def _remove_shim(self, shim: ShimState) -> None:
        """A shim whose container has no record; one whose container runs is left for a person to look at."""
        await self._parts.shims.remove(shim.container_id)
        await self._repaired(shim.container_id, "a shim without a container was ended")

    async def _remove_pause(self, sandbox_id: str) -> None:
        await self._parts.shims.remove_pause(sandbox_id)
        await self._repaired(sandbox_id, "a pause process without a sandbox was ended")

    async def _remove_bundle(self, container_id: str) -> None:
        await bundle.remove(self._parts, container_id)
        await self._repaired(container_id, "a bundle without a container was removed")

    async def _remove_files(self, container_id: str) -> None:
        await anyio.to_thread.run_sync(bundle.remove_record_dir, self._parts.record_dir(container_id))
        await self._repaired(container_id, "files of a container that was never recorded were removed")

    async def _remove_pod_files(self, sandbox_id: str) -> None:
        await anyio.to_thread.run_sync(remove_empty, self._parts.data_dir / "sandboxes" / sandbox_id)
        await self._repaired(sandbox_id, "the directory of a sandbox without a record was removed")

    async def _remove_namespaces(self, sandbox_id: str) -> None:
        directory = self._parts.sandbox_dir(sandbox_id)
        await network.unpin(directory)
        await network.unpin_pid(directory)
        await network.remove_directory(directory)
        await self._repaired(sandbox_id, "namespaces without a sandbox were removed")

    async def _remove_snapshot(self, key: str) -> None:
        await self._parts.snapshots.remove(key)
        await self._repaired(key, "a snapshot without a container was removed")

    async def _repaired(self, object_id: str, what: str) -> None:
        meters.REPAIRS.inc()
        _log.warning("node.repaired", id=object_id, what=what)
        await self._parts.containers.store.emit(NodeRepaired(id=object_id, service="runtimed", what=what))


def _names(directory: Path) -> set[str]:
    """Names of all that is in it. Blocking."""
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def _without_record(directory: Path) -> set[str]:
    """Names of those that have no copy of a record, nor one that was set aside. Blocking."""
    return {name for name in _names(directory) if not _has_record(directory / name)}


def _has_record(directory: Path) -> bool:
    try:
        return any(directory.glob("record.*"))
    except FileNotFoundError:  # it was removed meanwhile
        return True
