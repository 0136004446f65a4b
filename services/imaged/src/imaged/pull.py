"""One pull: what a reference was resolved to becomes a set of blobs and unpacked layers.

A pull is an operation of its own. Callers join it and may leave it; it goes on.

    manifest ─→ config ──────────────┐
           └──→ layer: fetch ─────→ unpack ∥ fsync ─→ commit     (each layer by itself)
"""

import itertools
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import anyio

from common.clock import now_ns
from common.errors import AbortedError, DataLossError, NotFoundError, SlipwayError
from common.failpoint import failpoint
from common.observe.trace import span
from imaged import manifest as documents
from imaged.leases import Leases, Needs
from imaged.manifest import EMPTY, EMPTY_DIGEST, Descriptor, Platform
from imaged.ports import Content, Ingest, Layers, Partial, Repository
from imaged.record import ImageRecord
from imaged.reference import Reference
from imaged.resolving import Resolved, recorded
from imaged.turns import Queue

KEPT_AT_ONCE = 16
"""Blobs that stay as they are: each has its file open while it waits for its turn."""
UntilWhole = Callable[[str], Awaitable[None]]
"""Waits for a blob, by its digest, if it comes already while it is used."""


class LayerState(StrEnum):
    """How far a layer is."""

    WAITING = "waiting"
    FETCHING = "fetching"
    UNPACKING = "unpacking"
    DONE = "done"


@dataclass(slots=True)
class LayerStatus:
    """A layer's progress, read by callers while it grows."""

    digest: str
    size_bytes: int
    state: LayerState = LayerState.WAITING
    partial: Partial | None = None
    had_bytes: int = 0
    """What was here before this pull."""

    @property
    def fetched_bytes(self) -> int:
        if self.state is LayerState.DONE or self.state is LayerState.UNPACKING:
            return self.size_bytes
        return self.partial.fetched_bytes if self.partial else 0


class Unpacking:
    """Brings the config and the layers of one manifest here, and has the layers unpacked.

    `lazily` is asked for each layer, with its diff ID, whether it need not be here.
    """

    def __init__(
        self,
        image: str,
        found: Resolved,
        *,
        content: Content,
        layers: Layers,
        leases: Leases,
        needs: Needs,
        want: Platform,
        until_whole: UntilWhole,
        lazily: Callable[[Descriptor, str], Awaitable[bool]] | None = None,
    ) -> None:
        self._image = image
        self._found = found
        self._content = content
        self._layers = layers
        self._leases, self._needs = leases, needs
        self._want, self._platform = want, found.platform
        self._lazily, self._until_whole = lazily, until_whole
        self._config_read = anyio.Event()
        self._diff_ids: list[str] = []
        self._held: set[str] = set()
        self.statuses = [LayerStatus(layer.digest, layer.size) for layer in found.manifest.layers]
        self._others = {blob: [LayerStatus(blob.digest, blob.size)] for blob in found.beside.blobs.values()}
        self.statuses += itertools.chain.from_iterable(self._others.values())

    async def run(self, repository: Repository | None, known: Collection[str]) -> ImageRecord:
        """Do it all.

        Args:
            repository: where the blobs are; None when they are all here.
            known: digests of layers that other images have; these wait until the config tells
                whether they are unpacked already, all others are fetched at once.
        """
        manifest = self._found.manifest
        self._needs.digests |= {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
        self._needs.digests |= {*self._found.kept, *self._found.beside.blobs}
        failure: SlipwayError | None = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._config, repository)
                started: set[str] = set()
                for number, layer in enumerate(manifest.layers):
                    if layer.digest in started:
                        self.statuses[number] = next(s for s in self.statuses if s.digest == layer.digest)
                    wait = layer.digest in known or layer.digest in started
                    started.add(layer.digest)
                    group.start_soon(self._layer, repository, number, wait)
                group.start_soon(
                    keep_all,
                    repository,
                    self._content,
                    self._others,
                    1 + len(manifest.layers),
                    self._until_whole,
                )
        except* SlipwayError as failures:
            failure = first(failures)
        if failure:
            raise failure
        return self._record()

    async def _config(self, repository: Repository | None) -> None:
        descriptor = self._found.manifest.config
        if not self._content.has(descriptor.digest):
            await keep(repository, self._content, descriptor)
        body = await self._content.read(descriptor.digest)
        self._diff_ids = documents.diff_ids(self._image, self._found.manifest, body, self._want)
        if not documents.suits(body, documents.local_platform()):
            self._platform = str(self._want)
        self._held |= await self._leases.count_on(self._needs, self._diff_ids)
        self._config_read.set()

    async def _layer(self, repository: Repository | None, number: int, wait: bool) -> None:
        descriptor, status = self._found.manifest.layers[number], self.statuses[number]
        if wait or self._content.has(descriptor.digest):
            await self._config_read.wait()
            if self._diff_ids[number] in self._held:
                status.state, status.had_bytes = LayerState.DONE, descriptor.size
                return
        if self._lazily and not self._content.has(descriptor.digest):
            await self._config_read.wait()
            if await self._lazily(descriptor, self._diff_ids[number]):
                status.state = LayerState.DONE
                return
        await self._until_whole(descriptor.digest)
        async with self._content.ingest(descriptor) as ingest:
            if ingest.committed:
                status.had_bytes = descriptor.size
            else:
                status.had_bytes = ingest.partial.fetched_bytes
                status.partial, status.state = ingest.partial, LayerState.FETCHING
                await fetch(repository, descriptor, ingest, 1 + number)
                await failpoint("imaged.pull.fetched")
            await self._config_read.wait()
            await self._unpack(descriptor, self._diff_ids[number], ingest, status)

    async def _unpack(
        self, descriptor: Descriptor, diff_id: str, ingest: Ingest, status: LayerStatus
    ) -> None:
        """Unpack while the blob becomes durable; only then does it get its name."""
        status.state = LayerState.UNPACKING
        failure: SlipwayError | None = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(ingest.sync)
                if diff_id not in self._held:
                    await self._apply(descriptor, diff_id, ingest)
        except* SlipwayError as failures:
            failure = first(failures)
        if failure:
            if isinstance(failure, DataLossError):
                # of no use to this image; another may have it, unless the disk lies
                await ingest.discard()
            raise type(failure)(f"image {self._image}: layer {descriptor.digest}: {failure.message}")
        await ingest.commit()
        status.state = LayerState.DONE

    async def _apply(self, descriptor: Descriptor, diff_id: str, ingest: Ingest) -> None:
        with span("imaged.layer.unpack", {"slipway.digest": descriptor.digest}):
            await self._layers.apply_layer(
                diff_id=diff_id,
                digest=descriptor.digest,
                blob_path=ingest.path,
                media_type=descriptor.media_type,
                size_bytes=descriptor.size,
            )
        await failpoint("imaged.pull.unpacked")
        self._held.add(diff_id)

    def _record(self) -> ImageRecord:
        manifest = self._found.manifest
        return ImageRecord(
            id=manifest.config.digest,
            manifest_digest=str(self._found.manifest_digest),
            config_size_bytes=manifest.config.size,
            documents=self._found.kept,
            diff_ids=tuple(self._diff_ids),
            layers=tuple(map(recorded, manifest.layers)),
            others=self._found.others,
            platform=self._platform,
            pulled_at_ns=now_ns(),
        )


async def fetch(repository: Repository | None, descriptor: Descriptor, ingest: Ingest, order: int) -> None:
    """Bring what is missing of a blob.

    Raises:
        NotFoundError: it is not here, and there is no repository to ask.
        SlipwayError: as `Repository.fetch` raises.
    """
    if ingest.committed:
        return
    if repository is None:
        raise NotFoundError(f"blob {descriptor.digest} is not here")
    with span(
        "imaged.blob.fetch", {"slipway.digest": descriptor.digest, "slipway.size_bytes": descriptor.size}
    ):
        await repository.fetch(descriptor, ingest.partial, order)


async def keep_all(
    repository: Repository | None,
    content: Content,
    wanted: Mapping[Descriptor, Iterable[LayerStatus]],
    order: int,
    until_whole: UntilWhole,
) -> None:
    """Bring blobs that stay as they are, a few at once.

    Args:
        repository: where they are; None when they are all here.
        content: where they go.
        wanted: the blobs, each with what tells how far it is.
        order: of the first among what the pull waits for.
        until_whole: asked for each.

    Raises:
        SlipwayError: as `fetch`, and as `until_whole`.
    """
    waiting = enumerate(wanted.items(), order)

    async def some() -> None:
        for number, (blob, statuses) in waiting:
            await until_whole(blob.digest)
            await keep(repository, content, blob, number, statuses)

    async with anyio.create_task_group() as group:
        for _ in range(min(KEPT_AT_ONCE, len(wanted))):
            group.start_soon(some)


async def keep(
    repository: Repository | None,
    content: Content,
    blob: Descriptor,
    order: int = 0,
    statuses: Iterable[LayerStatus] = (),
) -> None:
    """Bring a blob that stays as it is; see `keep_all`."""
    if blob.digest == str(EMPTY_DIGEST):
        await content.put(EMPTY_DIGEST, EMPTY)
    async with content.ingest(blob) as ingest:
        for status in statuses:
            status.had_bytes = blob.size if ingest.committed else ingest.partial.fetched_bytes
            if not ingest.committed:
                status.partial, status.state = ingest.partial, LayerState.FETCHING
        await fetch(repository, blob, ingest, order)
        await ingest.sync()
        await ingest.commit()
    for status in statuses:
        status.state = LayerState.DONE


def first(failures: BaseExceptionGroup[SlipwayError]) -> SlipwayError:
    """The error to tell: one inside a group, however deep."""
    for failure in failures.exceptions:
        if isinstance(failure, BaseExceptionGroup):
            return first(failure)
        return failure
    return AbortedError("a pull ended without a reason")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which platforms of an image are meant."""

    platform: str = ""
    """One, as `imaged.manifest.platform_of` takes it; empty for this node's."""
    every: bool = False
    """All that there are."""


NO_CHOICE = Choice()


@dataclass(slots=True, eq=False)
class Operation:
    """A running pull that callers may join."""

    reference: Reference
    queue: Queue
    lazy: bool = False
    choice: Choice = NO_CHOICE
    done: anyio.Event = field(default_factory=anyio.Event)
    statuses: list[LayerStatus] = field(default_factory=list)
    left_s: float | None = None
    """Until all is fetched; None while that is not known."""
    record: ImageRecord | None = None
    error: SlipwayError | None = None

    def bytes(self) -> tuple[int, int]:
        """How many are here, and of how many."""
        return sum(s.fetched_bytes for s in self.statuses), sum(s.size_bytes for s in self.statuses)

    def came_bytes(self) -> int:
        """How many came from the network; fewer than before when some were of no use."""
        return sum(s.fetched_bytes - s.had_bytes for s in self.statuses)

    def result(self) -> ImageRecord:
        """The image, once done."""
        if self.error is not None:
            # a new one for each caller: a shared exception would gather their tracebacks
            raise self.error.bare()
        if self.record is None:
            raise AbortedError(f"the pull of {self.reference} was stopped")
        return self.record
