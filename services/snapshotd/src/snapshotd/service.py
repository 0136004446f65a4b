"""Use cases of snapshots: prepare, get, list, remove, usage."""

import re
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
import msgspec

from common import errors
from common.clock import now_ns
from common.events.schema import SnapshotFull, SnapshotPrepared, SnapshotRemoved
from common.failpoint import failpoint
from common.observe.log import get_logger
from common.observe.trace import span
from common.records import RecordStore
from common.sys import linux
from common.sys.userns import IdMappings
from snapshotd.compose import Stratum
from snapshotd.faults import disk_faults
from snapshotd.layers import Layers
from snapshotd.ports import Bin, Mounts, Snapshotter
from snapshotd.quotas import Quotas, is_full
from snapshotd.records import EROFS, LayerRecord, SnapshotRecord
from snapshotd.store import NEW_PREFIX, Places, write_copy
from snapshotd.unpacking import Blob, Unpacking
from snapshotd.usage import UsageCache, Use

_log = get_logger("snapshots")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class Snapshots:
    """Snapshots by key.

    Args:
        records: the snapshots' records, loaded.
        layers: what they stand on.
        unpacking: lays out what a snapshot begins with.
        places: where they lie.
        mounts: where they are mounted.
        snapshotters: by name.
        default: the name for requests that name none.
        trash: takes what is removed.
        usage_interval_s: how often their use is counted.
        quotas: bounds what a snapshot's user may write.
    """

    def __init__(
        self,
        *,
        records: RecordStore[SnapshotRecord],
        layers: Layers,
        unpacking: Unpacking,
        places: Places,
        mounts: Mounts,
        snapshotters: Mapping[str, Snapshotter],
        default: str,
        trash: Bin,
        usage_interval_s: float,
        quotas: Quotas,
    ) -> None:
        self._quotas = quotas
        self._records, self._layers, self._places = records, layers, places
        self._unpacking = unpacking
        self._mounts, self._snapshotters, self._default, self._trash = mounts, snapshotters, default, trash
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self.cache = UsageCache(usage_interval_s, self._writable_places)

    async def prepare(
        self,
        key: str,
        diff_ids: list[str],
        snapshotter: str,
        *,
        readonly: bool,
        ids: IdMappings | None = None,
        diff: Blob | None = None,
    ) -> SnapshotRecord:
        """Make and mount a snapshot; the same call again returns the first one.

        `ids` are those of the user namespace that will use it, `diff` is what it begins with above the layers.

        Raises:
            AlreadyExistsError: the key has a snapshot made from something else.
            InvalidArgumentError: the key or the snapshotter cannot be, or an entry of the diff is never to be unpacked.
            DataLossError: the diff has another digest.
            NotFoundError: a layer is not here.
            FailedPreconditionError: this machine lacks what the snapshotter needs.
            ResourceExhaustedError: the disk is full.
        """
        if not _KEY.fullmatch(key):
            message = f"snapshot key {key!r}: want 1 to 128 of letters, digits, '_', '.' and '-', no '.' or '-' first"
            raise errors.InvalidArgumentError(message)
        name = snapshotter or self._default
        if name not in self._snapshotters:
            message = f"snapshotter {name!r}: known are {', '.join(sorted(self._snapshotters))}"
            raise errors.InvalidArgumentError(message)
        if diff and (readonly or ids):
            raise errors.InvalidArgumentError(
                f"snapshot {key!r}: a diff takes one that is writable, of ids that are not mapped"
            )
        async with self._lock(key):
            held = self._records.find(key)
            if held:
                wanted = (diff_ids, name, readonly, ids)
                if (held.diff_ids, held.snapshotter, held.readonly, held.ids) != wanted:
                    message = f"snapshot {key!r} exists already, over other layers or of another kind"
                    raise errors.AlreadyExistsError(message)
                if key not in await anyio.to_thread.run_sync(self._mounts.mounted):
                    with disk_faults(f"snapshot {key!r}"):  # its removal had begun
                        await anyio.to_thread.run_sync(self.remount, held)
                return held
            stack = self._layers.stack(diff_ids)
            layer_ids = [layer.id for layer in stack]
            facts: dict[str, str | int] = {"slipway.snapshot": key, "slipway.layers": len(layer_ids)}
            async with self._counted(key, layer_ids):
                with span("snapshotd.snapshot.prepare", facts):
                    if name == EROFS:
                        await self._layers.add_images(layer_ids)
                    if ids and not linux.has_mapped_fuse():
                        self._layers.refuse_coming(layer_ids, "this kernel maps no ids of what is served")
                    async with self._laid_out(key, diff) as laid:
                        made = await self._make(key, stack, name, readonly=readonly, ids=ids, laid=laid)
            await failpoint("snapshotd.prepare.recorded")
            return made

    def get(self, key: str) -> SnapshotRecord:
        """The snapshot.

        Raises:
            NotFoundError: there is none.
        """
        return self._records.get(key)

    def all(self) -> list[SnapshotRecord]:
        return self._records.all()

    async def remove(self, key: str) -> None:
        """Unmount and remove; nothing happens when it is gone already."""
        if not _KEY.fullmatch(key):
            return
        async with self._lock(key):
            record = self._records.find(key)
            if record is None:
                return
            with disk_faults(f"snapshot {key!r}: cannot be removed"):
                await anyio.to_thread.run_sync(self._mounts.unmount, key)
                await failpoint("snapshotd.remove.unmounted")
                # a record that is gone is not found by the next call, which would finish this
                with anyio.CancelScope(shield=True):
                    await self._records.delete(key, SnapshotRemoved(id=key))
                    async with AsyncExitStack() as steps:  # from the last to the first, whatever fails
                        steps.push_async_callback(self._layers.release, record.layers)
                        steps.push_async_callback(
                            anyio.to_thread.run_sync, self._quotas.release, record.project
                        )
                        steps.push_async_callback(self._trash.throw, self._places.snapshot(key))
                        await failpoint("snapshotd.remove.forgotten")

    def _lock(self, key: str) -> anyio.Lock:
        """Of one snapshot, for as long as somebody has it or waits for it."""
        return self._locks.setdefault(key, anyio.Lock())

    async def usage(self, keys: Iterable[str]) -> dict[str, Use]:
        """What those that exist hold of their own; all when none is named."""
        return await self.cache.get(list(keys) or [record.id for record in self._records.all()])

    async def watch_bounds(self, interval_s: float) -> None:
        """Tell of each snapshot that reaches its bound, once until it has room again; for ever."""
        full: set[str] = set()
        while True:
            bounded = [record for record in self._records.all() if record.project]
            full &= {record.id for record in bounded}
            for record in bounded:
                try:
                    used = await anyio.to_thread.run_sync(self._quotas.used_bytes, record.project)
                    own = max(0, used - record.base_bytes)
                    if not is_full(own, record.max_bytes):
                        full.discard(record.id)
                    elif record.id not in full:
                        event = SnapshotFull(id=record.id, used_bytes=own, max_bytes=record.max_bytes)
                        await self._records.emit(event)
                        full.add(record.id)
                except (OSError, errors.SlipwayError) as exc:
                    _log.warning("bound.unread", snapshot=record.id, error=str(exc))
            await anyio.sleep(interval_s)

    def remount(self, record: SnapshotRecord) -> None:
        """Mount a snapshot that has lost its mount. Blocks.

        Raises:
            NotFoundError: a layer is not here.
            OSError: with the path.
        """
        self._mount(record, self._places.snapshot(record.id), self._layers.stack(record.diff_ids))

    @asynccontextmanager
    async def _counted(self, key: str, layer_ids: list[str]) -> AsyncIterator[None]:
        """Count the snapshot that the block makes on its layers."""
        self._layers.hold(layer_ids)
        try:
            yield
        except BaseException:
            if not self._records.find(key):
                with anyio.CancelScope(shield=True):
                    await self._layers.release(layer_ids)
            raise

    @asynccontextmanager
    async def _laid_out(self, key: str, diff: Blob | None) -> AsyncIterator[Stratum | None]:
        """The diff, unpacked for as long as the block runs."""
        if diff is None:
            yield None
            return
        directory = self._places.snapshots / f"{NEW_PREFIX}{key}-{secrets.token_hex(4)}"
        try:
            with disk_faults(f"snapshot {key!r}"):
                unpacked = await self._unpacking.diff(diff, directory / "fs")
            yield Stratum(directory / "fs", frozenset(unpacked.implied))
        finally:
            with anyio.CancelScope(shield=True):
                await self._trash.throw(directory)

    async def _make(
        self,
        key: str,
        stack: list[LayerRecord],
        name: str,
        *,
        readonly: bool,
        ids: IdMappings | None,
        laid: Stratum | None,
    ) -> SnapshotRecord:
        record = SnapshotRecord(
            id=key,
            layers=[layer.id for layer in stack],
            diff_ids=[layer.diff_id for layer in stack],
            snapshotter=name,
            readonly=readonly,
            path=str(self._mounts.path(key)),
            created_at_ns=now_ns(),
            ids=ids,
            project=0 if readonly else self._quotas.project(r.project for r in self._records.all()),
            max_bytes=0 if readonly else self._quotas.max_bytes,
        )
        with disk_faults(f"snapshot {key!r}"):
            try:
                made = await anyio.to_thread.run_sync(self._build, record, stack, laid)
                await failpoint("snapshotd.prepare.built")
                made = await self._records.create(made, _prepared)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._mounts.unmount, key)
                    await self._trash.throw(self._places.snapshot(key))
                raise
        return made

    def _build(
        self, record: SnapshotRecord, stack: list[LayerRecord], laid: Stratum | None
    ) -> SnapshotRecord:
        """All that is done on disk and in the kernel, in one go in a thread."""
        staging = self._places.snapshots / f"{NEW_PREFIX}{record.id}-{secrets.token_hex(4)}"
        staging.mkdir(mode=0o700)
        target = self._places.snapshot(record.id)
        try:
            base = self._snapshotters[record.snapshotter].prepare(
                staging, stack, readonly=record.readonly, ids=record.ids, diff=laid
            )
            made = msgspec.structs.replace(record, base_bytes=base[0], base_inodes=base[1])
            if made.project:
                self._quotas.bound(staging, made.project, made.base_bytes)
            write_copy(staging, made)
        finally:
            # where the caller's clean-up finds it, whole or not
            staging.rename(target)
        self._mount(made, target, stack)
        return made

    def _mount(self, record: SnapshotRecord, directory: Path, stack: list[LayerRecord]) -> None:
        snapshotter = self._snapshotters[record.snapshotter]
        snapshotter.mount(
            directory, self._mounts.path(record.id), stack, readonly=record.readonly, ids=record.ids
        )

    def _writable_places(self) -> dict[str, tuple[Path, tuple[int, int]]]:
        return {
            record.id: (
                self._snapshotters[record.snapshotter].writable(self._places.snapshot(record.id)),
                (record.base_bytes, record.base_inodes),
            )
            for record in self._records.all()
        }


def _prepared(record: SnapshotRecord) -> SnapshotPrepared:
    return SnapshotPrepared(id=record.id, snapshotter=record.snapshotter, path=record.path)
