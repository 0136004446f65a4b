"""The image service: pulls that callers share, look-ups, removals, usage."""

import gc
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from common import buildcache
from common.clock import now_ns
from common.digest import Digest
from common.errors import (
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    SlipwayError,
    UnavailableError,
)
from common.events.schema import ImagePulled, PullFailed, PullStarted
from common.failpoint import failpoint
from common.observe.log import get_logger
from common.observe.trace import span
from common.operations import Operations, cancellable
from common.records import RecordStore
from imaged import manifest as documents
from imaged import meters, resolving
from imaged.bringing import Bringing
from imaged.catalog import Catalog, Untagged
from imaged.configs import Configs
from imaged.lazy.store import LazyBlobs, LazyPlaces
from imaged.leases import Leases, Needs
from imaged.manifest import local_platform
from imaged.ports import Content, Credentials, Layers, Registry, Repository, Workplace
from imaged.progress import report
from imaged.pull import NO_CHOICE, Choice, LayerState, LayerStatus, Operation
from imaged.record import ImageRecord
from imaged.reference import DEFAULT_DOMAIN, Reference, expanded
from imaged.signatures import Trust
from imaged.trust import Verifier
from imaged.whole import Whole

PROGRESS_S = 0.2
"""Callers hear of a pull's progress five times a second at most."""
MAX_LEASE_S = 10 * 365 * 86_400
_log = get_logger("imaged")


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a pull; the last one has the image."""

    reference: str
    layers: list[LayerStatus]
    left_s: float | None = None
    """Until all is fetched; None while that is not known."""
    image: ImageRecord | None = None


class Stored(Content, Protocol):
    """The content store with what usage asks of it."""

    async def usage(self) -> tuple[int, int]:
        """Bytes on disk and files, whole or not."""


class Images:
    """Use cases of imaged.

    Args:
        records: image records; this is their only writer.
        content: blobs.
        registry: where images come from.
        layers: where they are unpacked.
        task_group: pulls live here, not in their callers.
        workplace: where the files of artifacts become a layer.
        pinned: globs over names that are pinned.
        short_names: the registry of names that have none; empty refuses to pull them.
        policy: the file that says whose images may be pulled, and what checks their signatures.
        listened: whether events get through now.
        lazy: where it is kept what comes while it is used; None pulls everything first.
    """

    def __init__(
        self,
        records: RecordStore[ImageRecord],
        content: Stored,
        registry: Registry,
        layers: Layers,
        *,
        task_group: TaskGroup,
        workplace: Workplace,
        pinned: tuple[str, ...] = (),
        short_names: str = DEFAULT_DOMAIN,
        policy: tuple[str, Verifier] | None = None,
        listened: Callable[[], bool] = lambda: True,
        lazy: LazyPlaces | None = None,
    ) -> None:
        self._records = records
        self._content = content
        self._registry = registry
        self._layers = layers
        self._group = task_group
        self._pinned = pinned
        self._short_names = short_names
        self._listened = listened
        self._platform = local_platform()
        self._operations: dict[tuple[str, Credentials, Choice], Operation] = {}
        self.configs = Configs(content)
        self.operations = Operations(task_group)
        self.catalog = Catalog(records, short_names)
        self.leases = Leases(self.catalog, content, layers)
        self.trust = Trust(*policy, content, self.leases) if policy else None
        self.lazies = (
            LazyBlobs(lazy, content, registry, layers, self.leases, emit=records.emit, task_group=task_group)
            if lazy
            else None
        )
        self.whole = Whole(content, registry, self.lazies)
        self.bringing = Bringing(content, layers, self.leases, workplace, self.whole.until_whole)

    async def pull(
        self,
        text: str,
        credentials: Credentials,
        priority: int = 0,
        *,
        lazy: bool = False,
        choice: Choice = NO_CHOICE,
    ) -> AsyncIterator[Progress]:
        """Start a pull or join the one that runs, and follow it.

        Args:
            text: the image.
            credentials: for its registry.
            priority: among the pulls that wait, the highest comes first; joining may raise it.
            lazy: layers that can be used before they are here need not be, unless the pull that is joined has them come.
            choice: another platform in place of this node's, or all beside it, which stay as they are.

        Raises:
            InvalidArgumentError: the reference or the image is malformed, or the name is one that only builds give.
            NotFoundError, PermissionDeniedError, ResourceExhaustedError, DataLossError, UnknownError: as
                `imaged.ports.Repository` says.
            UnavailableError: Redis or snapshotd is away.
        """
        reference = Reference.parse(expanded(text, self._short_names))
        if reference.repository == buildcache.REPOSITORY:
            raise InvalidArgumentError(f"image {reference}: only builds give such names")
        choice = replace(choice, platform=self._foreign(choice.platform))
        key = (str(reference), credentials, choice)
        operation = self._operations.get(key)
        if operation is None:
            queue = self._registry.queue(priority)
            operation = self._operations[key] = Operation(reference, queue, lazy, choice)
            self._group.start_soon(self._operate, operation, credentials, name=f"pull {reference}")
            self._group.start_soon(report, operation, self._records.emit, self._listened, name="progress")
        operation.queue.priority = max(operation.queue.priority, priority)
        last: list[tuple[LayerState, int]] = []
        while not operation.done.is_set():
            with anyio.move_on_after(PROGRESS_S):
                await operation.done.wait()
            now = [(status.state, status.fetched_bytes) for status in operation.statuses]
            if now != last:
                last = now
                yield Progress(str(reference), operation.statuses, operation.left_s)
        yield Progress(str(reference), operation.statuses, 0.0, operation.result())

    def _foreign(self, text: str) -> str:
        """A platform by its usual name; empty when it is this node's."""
        platform = documents.platform_of(text) if text else self._platform
        return "" if platform == self._platform else str(platform)

    async def check_login(self, registry: str, credentials: Credentials) -> bool:
        """Whether a registry asked for the login, which it took; nothing is kept.

        Raises:
            InvalidArgumentError: the registry is no host, or there is no login.
            PermissionDeniedError, UnknownError: as `imaged.ports.Registry` says.
        """
        if not credentials:
            raise InvalidArgumentError(f"login at {registry!r}: no user")
        reference = Reference.parse(f"{registry}/login")
        if reference.domain != registry:
            raise InvalidArgumentError(f"registry {registry!r}: want HOST or HOST:PORT")
        return await self._registry.check_login(registry, credentials)

    def pulls(self) -> list[Progress]:
        """The pulls that run now."""
        running = self._operations.values()
        return [Progress(str(each.reference), each.statuses, each.left_s) for each in running]

    async def get(self, text: str, *, used: bool) -> ImageRecord:
        """An image by any name; with `used`, its age counts from now.

        Raises:
            InvalidArgumentError, NotFoundError: as `Catalog.find` raises.
        """
        record = self.catalog.find(text)
        if used:
            self._group.start_soon(self._note_use, record.id)
        return record

    async def _note_use(self, image_id: str) -> None:
        """In the background: who makes a container does not wait for a collector's book-keeping."""
        try:
            await self.catalog.use(image_id, now_ns())
        except SlipwayError as exc:
            _log.warning("use.unnoted", image_id=image_id, error=exc.message)

    async def lease(self, text: str, name: str, seconds: float) -> ImageRecord:
        """Hold an image against collection for a time; 0 ends the lease.

        Raises:
            InvalidArgumentError: the time is negative or longer than `MAX_LEASE_S`, or as `Catalog.lease` raises.
            NotFoundError, ResourceExhaustedError: as `Catalog.lease` raises.
        """
        if not 0 <= seconds <= MAX_LEASE_S:
            raise InvalidArgumentError(f"lease {name!r}: {seconds} s: want 0 to {MAX_LEASE_S}")
        at_ns = now_ns()
        return await self.catalog.lease(text, name, at_ns + int(seconds * 1e9), at_ns=at_ns)

    def pin_of(self, record: ImageRecord) -> str:
        """The glob that pins an image; empty for none."""
        return next((g for g in self._pinned for name in record.names if fnmatchcase(name, g)), "")

    def coming(self, record: ImageRecord) -> list[str]:
        """The digests of its layers that still come while they are used."""
        return [layer.digest for layer in record.layers if self.lazies and self.lazies.has(layer.digest)]

    def damage(self, record: ImageRecord) -> str:
        """Why one of these will never be whole, or could not be read last; empty when all is well."""
        if self.lazies is None:
            return ""
        return next(filter(None, map(self.lazies.failure, self.coming(record))), "")

    async def remove(self, text: str) -> None:
        """Remove an image with all its names; nothing happens when it is not here."""
        record = await self.catalog.remove(text)
        if record:
            await self._collect(record)

    async def untag(self, text: str, *, force: bool, keep_last: bool) -> Untagged:
        """Take a name away, and the image with its last one; see `Catalog.untag`."""
        in_use = set() if force else await self.leases.in_use()
        found = await self.catalog.untag(text, force=force, in_use=in_use, keep_last=keep_last)
        if found.image:
            await self._collect(found.image)
        return found

    def shared(self, repository: str, digest: str) -> Path | None:
        """The file of a blob, when it is here and an image of the repository has it."""
        of_it = (f"{repository}:", f"{repository}@")
        for record in self._records.all():
            if any(name.startswith(of_it) for name in record.names) and digest in record.blobs:
                return Path(self._content.path(digest)) if self._content.has(digest) else None
        return None

    async def usage(self) -> tuple[int, int]:
        """Bytes and files of all blobs, whole or not."""
        return await self._content.usage()

    async def _collect(self, record: ImageRecord) -> None:
        self.configs.forget(record.id)
        await self.leases.collect(record.blobs, set(record.diff_ids))
        if self.lazies:
            await self.lazies.sweep()

    async def _operate(self, operation: Operation, credentials: Credentials) -> None:
        reference = operation.reference
        start = time.monotonic()
        try:
            with (
                meters.RUNNING.track_inprogress(),
                self.operations.counted("pull", str(reference), operation.bytes),
                span("imaged.image.pull", {"slipway.reference": str(reference)}),
                self.leases.hold() as needs,
            ):
                await self._records.emit(PullStarted(id=str(reference)))
                with cancellable():
                    record, whole = await self._bring(operation, needs, credentials)
                operation.record = await self._keep(reference, record, whole, start)
                await failpoint("imaged.pull.recorded")
                _log.info(
                    "image.pulled",
                    reference=str(reference),
                    image_id=record.id,
                    size_bytes=record.size_bytes,
                    ms=round((time.monotonic() - start) * 1e3),
                )
        except SlipwayError as exc:
            operation.error = exc.bare()
        except Exception as exc:  # noqa: BLE001 - the border: the pull's callers hear of a bug, others go on
            _log.exception("pull.bug", reference=str(reference))
            operation.error = InternalError(f"pull of {reference}: internal error: {type(exc).__name__}")
        finally:
            self._operations.pop((str(reference), credentials, operation.choice), None)
            operation.done.set()
            meters.PULLS.labels("pulled" if operation.record else "failed").inc()
            meters.PULL_SECONDS.observe(time.monotonic() - start)
        if operation.error is not None:
            gc.collect()  # errors and frames that hold each other, and what the registry sent
            _log.warning("image.pull_failed", reference=str(reference), error=operation.error.message)
            if isinstance(operation.error, ResourceExhaustedError):
                await self.leases.make_room()
            try:
                await self._records.emit(PullFailed(id=str(reference), error=operation.error.message))
            except UnavailableError as exc:
                _log.warning("event.lost", what="pull_failed", error=exc.message)

    async def _bring(
        self, operation: Operation, needs: Needs, credentials: Credentials
    ) -> tuple[ImageRecord, str]:
        """The image's record, not stored yet, and the digest that the reference stands for."""
        reference = operation.reference
        async with self._registry.repository(reference, credentials, queue=operation.queue) as repository:
            top = await repository.resolve()
            if self.lazies:
                await self.lazies.renew(reference, credentials)
            if top:
                known = await self._unchanged(reference.at(top), top, operation.choice, needs)
                if known:
                    await self._check(reference, repository, top, Digest.parse(known.manifest_digest))
                    return known, str(top)
            return await self._fetch(operation, needs, repository, top, credentials)

    async def _fetch(
        self,
        operation: Operation,
        needs: Needs,
        repository: Repository,
        top: Digest | None,
        credentials: Credentials,
    ) -> tuple[ImageRecord, str]:
        reference = operation.reference
        chosen = operation.choice.platform
        want = documents.platform_of(chosen) if chosen else self._platform
        found = await resolving.resolve(repository, self._content, needs, reference, top, want)
        await self._check(reference, repository, found.top, found.manifest_digest)
        if operation.choice.every:
            found = await resolving.resolve_all(repository, self._content, needs, reference, found)
        lazily = (
            partial(self.lazies.begin, reference, credentials) if self.lazies and operation.lazy else None
        )
        work = self.bringing.of(str(reference), found, needs, want, lazily)
        operation.statuses = work.statuses
        known = {layer.digest for record in self._records.all() for layer in record.layers}
        return await work.run(repository, known), str(found.top)

    async def _check(self, reference: Reference, repository: Repository, *digests: Digest) -> None:
        if self.trust:
            await self.trust.check(reference, repository, list(dict.fromkeys(digests)))

    async def _unchanged(
        self, repo_digest: str, top: Digest, choice: Choice, needs: Needs
    ) -> ImageRecord | None:
        """The image that has this repo digest, if all of it is here that was chosen."""
        fitting = (
            r for r in self._records.all() if repo_digest in r.repo_digests and r.platform == choice.platform
        )
        record = next(fitting, None)
        if record is None:
            return None
        needs.add(record)
        if choice.every:
            below = await self.whole.below(str(top))
            if below is None or not below <= record.blobs:  # what is here may be another image's, or nobody's
                return None
        held = await self.leases.count_on(needs, record.diff_ids)
        whole = self._content.has(record.id) and held >= set(record.diff_ids)
        return record if whole else None

    async def _keep(self, reference: Reference, made: ImageRecord, top: str, start: float) -> ImageRecord:
        event = ImagePulled(
            id=made.id,
            reference=str(reference),
            size_bytes=made.size_bytes,
            duration_ms=round((time.monotonic() - start) * 1e3),
        )
        tags = (str(reference),) if reference.tag else ()
        return await self.catalog.keep(made, event, tags=tags, repo_digest=f"{reference.repository}@{top}")
