"""Use cases of layers: have them unpacked once, list, remove."""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import TaskGroup

from common import errors
from common.clock import now_ns
from common.digest import Digest
from common.events.schema import LayerRemoved, LayerUnpacked
from common.failpoint import failpoint
from common.observe.log import get_logger
from common.observe.trace import context_of, span, traceparent
from common.records import RecordStore
from snapshotd import meters
from snapshotd.diff.answer import Unpacked
from snapshotd.faults import disk_faults
from snapshotd.lazy.job import Verdict
from snapshotd.ports import Bin
from snapshotd.records import LayerRecord, LazyForm
from snapshotd.roots import Roots
from snapshotd.store import Places
from snapshotd.unpacking import Blob, Unpacking

_SERVING = 2
"""Threads that start to serve layers: reading a table of contents can take a minute each."""
_log = get_logger("layers")


@dataclass
class _Wanted:
    """A layer that is being unpacked, which several callers may wait for."""

    blob: Blob
    trace: str
    done: anyio.Event = field(default_factory=anyio.Event)
    record: LayerRecord | None = None
    error: errors.SlipwayError | None = None


@dataclass(frozen=True)
class _Try:
    """A layer that is about to be served: it waits for its turn, or for its server."""

    turn: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    given_up: threading.Event = field(default_factory=threading.Event)


class Layers:
    """Layers by diff ID, each unpacked once.

    Args:
        records: the layers' records, loaded.
        places: where they lie.
        unpacking: makes their directories.
        trash: takes what is removed.
        roots: where the layers' trees are.
        task_group: unpackings live in it, not in their callers.
    """

    def __init__(
        self,
        *,
        records: RecordStore[LayerRecord],
        places: Places,
        unpacking: Unpacking,
        trash: Bin,
        roots: Roots,
        task_group: TaskGroup,
    ) -> None:
        self._records, self._places, self._unpacking = records, places, unpacking
        self._trash, self._roots = trash, roots
        self._group = task_group
        self._running: dict[str, _Wanted] = {}
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._users: Counter[str] = Counter()
        self._leaving: set[str] = set()
        self._serving = anyio.CapacityLimiter(_SERVING)
        self._trying: dict[str, _Try] = {}

    async def apply(self, blob: Blob) -> LayerRecord:
        """The layer of this diff ID, unpacked when it is not there; goes on when the caller leaves.

        It is served no more while its bytes come, when its server has not started yet: they are here.

        Raises:
            DataLossError: the bytes do not have that diff ID; nothing stays.
            InvalidArgumentError: an entry is never to be unpacked, or the path is no file.
            ResourceExhaustedError: the disk is full.
        """
        key = blob.diff_id.hex
        while True:
            held = self._records.find(key)
            if held and not held.lazy and key not in self._running:
                wanted = await self._wanted_again(key)
                if wanted:
                    return wanted
                continue
            running = self._running.get(key)
            if running is None:
                running = self._running[key] = _Wanted(blob, traceparent())
                self._group.start_soon(self._run, running, name=f"unpack {key[:12]}")
            await running.done.wait()
            if running.record:
                return running.record
            if running.error and running.blob == blob:
                raise running.error
            # another blob was said to have this diff ID, and failed: ours may be right

    def held(self, diff_ids: Iterable[str]) -> list[LayerRecord]:
        """Those held out of the named ones; all when none is named."""
        wanted = list(dict.fromkeys(diff_ids))
        if not wanted:
            return self._records.all()
        found = (self._records.find(Digest.parse(diff_id).hex) for diff_id in wanted)
        return [record for record in found if record]

    async def remove(self, diff_ids: Iterable[str]) -> list[str]:
        """Remove layers; returns those that snapshots stand on, which go with the last of these."""
        kept: list[str] = []
        failures: list[errors.SlipwayError] = []

        async def one(digest: Digest) -> None:
            try:
                if await self._remove(digest):
                    kept.append(str(digest))
            except errors.SlipwayError as exc:
                failures.append(exc)

        async with anyio.create_task_group() as group:
            for digest in [Digest.parse(diff_id) for diff_id in dict.fromkeys(diff_ids)]:
                group.start_soon(one, digest)
        if failures:
            raise failures[0]
        return sorted(kept)

    async def _remove(self, digest: Digest) -> bool:
        """Remove a layer; true when it is kept for now."""
        async with self._lock(digest.hex):
            record = self._records.find(digest.hex)
            if record is None:
                return False
            if not self._users[digest.hex]:
                await self._drop(record)
                return False
            if not record.orphaned:
                await self._records.update(record.id, _orphan)
            return True

    def _lock(self, layer_id: str) -> anyio.Lock:
        """Of one layer, for as long as somebody has it or waits for it."""
        return self._locks.setdefault(layer_id, anyio.Lock())

    def stack(self, diff_ids: Iterable[str]) -> list[LayerRecord]:
        """The layers of a snapshot, bottom first.

        Raises:
            NotFoundError: names the layer that is not there, or is being removed.
        """
        found = []
        for diff_id in diff_ids:
            record = self._records.find(Digest.parse(diff_id).hex)
            if record is None or record.id in self._leaving:
                message = f"layer {diff_id} is not here"
                raise errors.NotFoundError(message)
            found.append(record)
        return found

    def hold(self, layer_ids: Iterable[str]) -> None:
        """Count a snapshot that stands on these layers."""
        self._users.update(set(layer_ids))

    def is_held(self, layer_id: str) -> bool:
        """Whether a snapshot stands on it."""
        return self._users[layer_id] > 0

    async def add_images(self, layer_ids: Iterable[str]) -> None:
        """Make the images that these layers lack; they must be held.

        Raises:
            FailedPreconditionError: this machine has no EROFS.
            ResourceExhaustedError: the disk is full.
        """
        self.refuse_coming(layer_ids, "snapshotter 'erofs' makes an image of it")
        lacking = [layer_id for layer_id in layer_ids if not self._records.get(layer_id).image]
        if lacking:
            await self._unpacking.check_images()
        for layer_id in lacking:
            async with self._lock(layer_id):
                record = self._records.get(layer_id)
                if record.image:
                    continue
                size_bytes = await self._unpacking.image(record)
                await self._records.update(layer_id, partial(_with_image, size_bytes=size_bytes))

    def refuse_coming(self, layer_ids: Iterable[str], why: str) -> None:
        """For what a layer must be whole for.

        Raises:
            FailedPreconditionError: a layer's bytes still come.
        """
        for record in map(self._records.get, layer_ids):
            if record.lazy:
                raise errors.FailedPreconditionError(
                    f"layer {record.diff_id} still comes, and {why}: try again when it is whole"
                )

    async def release(self, layer_ids: Iterable[str]) -> None:
        """Count a snapshot less; layers that only it needed go, each whether another one can or not."""
        async with AsyncExitStack() as each:
            for layer_id in set(layer_ids):
                self._users[layer_id] -= 1
                if self._users[layer_id] <= 0:
                    del self._users[layer_id]
                    each.push_async_callback(self._unused, layer_id)

    async def _unused(self, layer_id: str) -> None:
        held = self._records.find(layer_id)
        if held and (held.image or self._roots.has_mount(layer_id)):
            await self._unmount(layer_id)
        async with self._lock(layer_id):
            record = self._records.find(layer_id)
            if record and record.orphaned and not self._users[layer_id]:
                await self._drop(record)

    async def drop_orphans(self) -> None:
        """Remove orphans that no snapshot stands on: those of a service that died in `release`."""
        for record in self._records.all():
            if record.orphaned and not self._users[record.id]:
                async with self._lock(record.id):
                    await self._drop(record)

    async def _wanted_again(self, layer_id: str) -> LayerRecord | None:
        """A layer that is here; None when it was on its way out."""
        async with self._lock(layer_id):
            held = self._records.find(layer_id)
            if held and held.orphaned:
                return await self._records.update(layer_id, _adopt)
            return held

    async def serve(self, diff_id: Digest, form: LazyForm) -> tuple[LayerRecord, int]:
        """Have a layer whose bytes come, until `apply` makes it an ordinary one; and how many of its first bytes it wants first.

        Raises:
            SlipwayError: as ports.LazyLayers.mount; nothing stays.
        """
        key = diff_id.hex
        async with self._lock(key):
            held = self._records.find(key)
            if held:
                wanted = await self._records.update(key, _adopt) if held.orphaned else held
                return wanted, 0
            if self._unpacking.only_images:
                raise errors.FailedPreconditionError("snapshotter 'erofs' keeps layers as images")
            return await self._serve(key, str(diff_id), form)

    async def _serve(self, key: str, diff_id: str, form: LazyForm) -> tuple[LayerRecord, int]:
        with anyio.CancelScope(shield=True):  # what is served and has no record, nobody would end
            try:
                with disk_faults(f"layer {form.digest}: cannot be served"):
                    await anyio.to_thread.run_sync(
                        partial(self._places.layer(key).mkdir, 0o700, exist_ok=True)
                    )
                    verdict = await self._tried(key, form)
                record = LayerRecord(
                    id=key,
                    diff_id=diff_id,
                    size_bytes=0,
                    inodes=0,
                    created_at_ns=now_ns(),
                    tree=False,
                    implied=verdict.implied,
                    lazy=form,
                )
                record = await self._records.create(record)
            except BaseException:
                await self._unmount(key)
                await self._trash.throw(self._places.layer(key))
                raise
        return record, verdict.prefetch_bytes

    async def _tried(self, key: str, form: LazyForm) -> Verdict:
        """Serve a layer, unless it is unpacked before its server has started."""
        this = self._trying[key] = _Try()
        verdict = None
        try:
            with this.turn:
                verdict = await anyio.to_thread.run_sync(
                    self._roots.serve, key, form, this.given_up, limiter=self._serving
                )
        finally:
            del self._trying[key]
        if verdict is None:
            message = f"layer {form.digest}: all of it came before its turn"
            raise errors.FailedPreconditionError(message)
        return verdict

    async def _came(self, whole: LayerRecord, event: LayerUnpacked) -> LayerRecord:
        """A layer that was served is an ordinary one from now on; who stands on it keeps what it sees."""

        def with_all(old: LayerRecord) -> LayerRecord:
            return msgspec.structs.replace(
                whole, revision=old.revision, orphaned=old.orphaned, created_at_ns=old.created_at_ns
            )

        return await self._records.update(whole.id, with_all, event)

    async def _unmount(self, layer_id: str) -> None:
        with _logged("layer.not_unmounted"):
            await anyio.to_thread.run_sync(self._roots.release, layer_id, partial(self.is_held, layer_id))

    async def _drop(self, record: LayerRecord) -> None:
        self._leaving.add(record.id)
        with anyio.CancelScope(shield=True):  # nobody would find the rest without its record
            try:
                await self._records.delete(record.id, LayerRemoved(id=record.diff_id))
            finally:
                self._leaving.discard(record.id)
            if self._roots.has_mount(record.id):
                await self._unmount(record.id)
            with disk_faults(f"layer {record.diff_id}: cannot be removed"):
                await self._trash.throw(self._places.layer(record.id))
        _log.info("layer.removed", diff_id=record.diff_id)

    async def _run(self, this: _Wanted) -> None:
        blob = this.blob
        tried = self._trying.get(blob.diff_id.hex)
        if tried:
            tried.given_up.set()
            tried.turn.cancel()
        try:
            async with self._lock(blob.diff_id.hex):
                attributes = {"slipway.diff_id": str(blob.diff_id), "slipway.digest": blob.digest}
                with span("snapshotd.layer.unpack", attributes, parent=context_of(this.trace)):
                    this.record = await self._unpack(blob)
        except errors.SlipwayError as exc:
            this.error = exc
        except Exception as exc:  # noqa: BLE001 - the border of a detached task: its callers hear of it, the service lives
            _log.exception("unpack.bug", diff_id=str(blob.diff_id))
            this.error = errors.InternalError(f"layer {blob.diff_id}: {type(exc).__name__}")
        finally:
            if not this.record and not this.error:
                this.error = errors.UnavailableError(f"layer {blob.diff_id}: snapshotd is stopping")
            del self._running[blob.diff_id.hex]
            this.done.set()
            meters.UNPACKS.labels("unpacked" if this.record else "failed").inc()

    async def _unpack(self, blob: Blob) -> LayerRecord:
        held = self._records.find(blob.diff_id.hex)
        if held and not held.lazy:
            return held
        start = time.monotonic()
        unpacked = await self._unpacking.layer(blob, again=held is not None)
        await failpoint("snapshotd.unpack.kept")
        record = await self._record(blob, unpacked, start)
        await failpoint("snapshotd.unpack.recorded")
        meters.UNPACK_SECONDS.observe(time.monotonic() - start)
        meters.UNPACKED_BYTES.inc(record.size_bytes)
        _log.info(
            "layer.unpacked",
            diff_id=record.diff_id,
            bytes=record.size_bytes,
            compression=unpacked.compression,
        )
        return record

    async def _record(self, blob: Blob, unpacked: Unpacked, start: float) -> LayerRecord:
        diff_id = str(blob.diff_id)
        record = LayerRecord(
            id=blob.diff_id.hex,
            diff_id=diff_id,
            size_bytes=unpacked.size_bytes,
            inodes=unpacked.inodes,
            created_at_ns=now_ns(),
            tree=not self._unpacking.only_images,
            image=self._unpacking.only_images,
            implied=unpacked.implied,
        )
        event = LayerUnpacked(
            id=diff_id,
            size_bytes=unpacked.size_bytes,
            inodes=unpacked.inodes,
            duration_ms=round((time.monotonic() - start) * 1e3),
        )
        try:
            if self._records.find(record.id):
                made = await self._came(record, event)
            else:
                made = await self._records.create(record, event)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._trash.throw(self._places.layer(blob.diff_id.hex))
            raise
        if self._roots.has_mount(made.id) and not self._users[made.id]:
            await self._unmount(made.id)
        return made


def _orphan(record: LayerRecord) -> LayerRecord:
    return msgspec.structs.replace(record, orphaned=True)


def _with_image(record: LayerRecord, size_bytes: int) -> LayerRecord:
    size_bytes += record.size_bytes
    return msgspec.structs.replace(record, image=True, size_bytes=size_bytes, inodes=record.inodes + 1)


def _adopt(record: LayerRecord) -> LayerRecord:
    return msgspec.structs.replace(record, orphaned=False)


@contextmanager
def _logged(event: str) -> Iterator[None]:
    """For a step that can be left out: its failure is a line in the log."""
    try:
        yield
    except OSError as exc:
        _log.warning(event, error=str(exc))
