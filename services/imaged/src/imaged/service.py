"""The image service: pulls that callers share, look-ups, removals, usage."""

import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

import anyio
import msgspec
from anyio.abc import TaskGroup

from common.digest import Digest
from common.errors import (
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    SlipwayError,
    UnavailableError,
)
from common.events.schema import ImagePulled, ImageRemoved, PullFailed, PullStarted
from common.observe.log import get_logger
from common.observe.trace import span
from common.records import RecordStore
from imaged import pull
from imaged.manifest import local_platform
from imaged.ports import Content, Credentials, Layers, Registry, Repository
from imaged.pull import LayerState, LayerStatus, Operation, Unpacking
from imaged.record import ImageRecord
from imaged.reference import Reference

PROGRESS_S = 0.2
"""Callers hear of a pull's progress five times a second at most."""
MAX_CONFIGS = 256
"""Configs that are kept in memory; most are a few kilobytes."""
_ID = re.compile(r"(?:sha256:)?([a-f0-9]{64})")
_PREFIX = re.compile(r"(?:sha256:)?([a-f0-9]{1,63})")
_log = get_logger("imaged")


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a pull; the last one has the image."""

    reference: str
    layers: list[LayerStatus]
    image: ImageRecord | None = None


class Stored(Content, Protocol):
    """The content store with what usage asks of it."""

    used_bytes: int

    @property
    def used_inodes(self) -> int: ...


class Images:
    """Use cases of imaged.

    Args:
        records: image records; this is their only writer.
        content: blobs.
        registry: where images come from.
        layers: where they are unpacked.
        task_group: pulls live here, not in their callers.
        pinned: globs over names that are pinned.
    """

    def __init__(
        self,
        records: RecordStore[ImageRecord],
        content: Stored,
        registry: Registry,
        layers: Layers,
        *,
        task_group: TaskGroup,
        pinned: tuple[str, ...] = (),
    ) -> None:
        self._records = records
        self._content = content
        self._registry = registry
        self._layers = layers
        self._group = task_group
        self._pinned = pinned
        self._platform = local_platform()
        self._operations: dict[tuple[str, Credentials], Operation] = {}
        self._configs: dict[str, bytes] = {}
        self._held_lock = anyio.Lock()
        self._names_lock = anyio.Lock()

    async def pull(self, text: str, credentials: Credentials) -> AsyncIterator[Progress]:
        """Start a pull or join the one that runs, and follow it.

        Raises:
            InvalidArgumentError: the reference or the image is malformed.
            NotFoundError, PermissionDeniedError, ResourceExhaustedError, DataLossError, UnknownError: as
                `imaged.ports.Repository` says.
            UnavailableError: Redis or snapshotd is away.
        """
        reference = Reference.parse(text)
        key = (str(reference), credentials)
        operation = self._operations.get(key)
        if operation is None:
            operation = self._operations[key] = Operation(reference)
            self._group.start_soon(self._operate, operation, credentials, name=f"pull {reference}")
        last: list[tuple[LayerState, int]] = []
        while not operation.done.is_set():
            with anyio.move_on_after(PROGRESS_S):
                await operation.done.wait()
            now = [(status.state, status.fetched_bytes) for status in operation.statuses]
            if now != last:
                last = now
                yield Progress(str(reference), operation.statuses)
        yield Progress(str(reference), operation.statuses, operation.result())

    def find(self, text: str) -> ImageRecord:
        """An image by tag, digest, id or unambiguous id prefix.

        Raises:
            InvalidArgumentError: the prefix fits several images, or the text is no reference.
            NotFoundError: it is not here.
        """
        whole = _ID.fullmatch(text)
        if whole:
            return self._present(self._records.find(f"sha256:{whole[1]}"), text)
        prefix = _PREFIX.fullmatch(text)
        named = None if text.startswith("sha256:") else self._named(text, strict=prefix is None)
        if named or not prefix:
            return self._present(named, text)
        fits = [r for r in self._records.all() if r.id.startswith(f"sha256:{prefix[1]}")]
        if len(fits) > 1:
            raise InvalidArgumentError(f"image id prefix {text!r} fits {len(fits)} images")
        return self._present(fits[0] if fits else None, text)

    def select(self, text: str = "") -> list[ImageRecord]:
        """All images, or the one that has this name."""
        if not text:
            return sorted(self._records.all(), key=lambda r: r.id)
        try:
            return [self.find(text)]
        except NotFoundError:
            return []

    async def config(self, record: ImageRecord) -> bytes:
        """The image's config; empty when the disk lost it, so that a list of all images still works."""
        body = self._configs.get(record.id)
        if body is None:
            try:
                body = await self._content.read(record.id)
            except SlipwayError as exc:
                _log.error("config.lost", image_id=record.id, error=exc.message)
                return b""
            while len(self._configs) >= MAX_CONFIGS:
                self._configs.pop(next(iter(self._configs)))
            self._configs[record.id] = body
        return body

    def is_pinned(self, record: ImageRecord) -> bool:
        return any(fnmatchcase(name, glob) for name in record.names for glob in self._pinned)

    async def remove(self, text: str) -> None:
        """Remove an image with all its names; nothing happens when it is not here."""
        try:
            record = self.find(text)
        except NotFoundError:
            return
        async with self._names_lock:
            event = ImageRemoved(id=record.id, references=record.names)
            await self._records.delete(record.id, event)
        self._configs.pop(record.id, None)
        _log.info("image.removed", image_id=record.id, names=record.names)
        await self._collect(record)

    def usage(self) -> tuple[int, int]:
        """Bytes and files of all blobs."""
        return self._content.used_bytes, self._content.used_inodes

    def needed(self) -> tuple[set[str], set[str]]:
        """Digests and diff IDs that an image or a running pull needs."""
        digests: set[str] = set()
        diff_ids: set[str] = set()
        for record in self._records.all():
            digests |= record.blobs
            diff_ids |= set(record.diff_ids)
        for operation in self._operations.values():
            digests |= operation.needs.digests
            diff_ids |= operation.needs.diff_ids
        return digests, diff_ids

    async def collect_layers(self) -> list[str]:
        """Remove layers that no image needs, such as those of pulls that failed; returns their diff IDs."""
        async with self._held_lock:
            held = [layer.diff_id for layer in await self._layers.list_layers()]
            orphans = sorted(set(held) - self.needed()[1])
            if orphans:
                await self._layers.remove_layers(orphans)
            return orphans

    async def _collect(self, record: ImageRecord) -> None:
        """Remove what only this image needed. What cannot be removed now, the sweep removes."""
        async with self._held_lock:
            digests, diff_ids = self.needed()
            orphans = sorted(set(record.diff_ids) - diff_ids)
            await self._content.delete(record.blobs - digests)
            try:
                if orphans:
                    await self._layers.remove_layers(orphans)
            except SlipwayError as exc:
                _log.warning("layers.left", image_id=record.id, layers=len(orphans), error=exc.message)

    async def _operate(self, operation: Operation, credentials: Credentials) -> None:
        reference = operation.reference
        start = time.monotonic()
        try:
            with span("imaged.image.pull", {"slipway.reference": str(reference)}):
                await self._records.emit(PullStarted(id=str(reference)))
                record, whole = await self._bring(operation, credentials)
                operation.record = await self._name(reference, record, whole, start)
                _log.info(
                    "image.pulled",
                    reference=str(reference),
                    image_id=record.id,
                    size_bytes=record.size_bytes,
                    ms=round((time.monotonic() - start) * 1e3),
                )
        except SlipwayError as exc:
            operation.error = exc
        except Exception as exc:  # noqa: BLE001 - the border: the pull's callers hear of a bug, others go on
            _log.exception("pull.bug", reference=str(reference))
            operation.error = InternalError(f"pull of {reference}: internal error: {type(exc).__name__}")
        finally:
            self._operations.pop((str(reference), credentials), None)
            operation.done.set()
        if operation.error is not None:
            _log.warning("image.pull_failed", reference=str(reference), error=operation.error.message)
            try:
                await self._records.emit(PullFailed(id=str(reference), error=operation.error.message))
            except UnavailableError as exc:
                _log.warning("event.lost", what="pull_failed", error=exc.message)

    async def _bring(self, operation: Operation, credentials: Credentials) -> tuple[ImageRecord, str]:
        """The image's record, not stored yet, and the digest that the reference stands for."""
        reference = operation.reference
        async with self._registry.repository(reference, credentials) as repository:
            top = await repository.resolve()
            if top:
                known = await self._unchanged(reference.at(top), operation)
                if known:
                    return known, str(top)
            return await self._fetch(operation, repository, top)

    async def _fetch(
        self, operation: Operation, repository: Repository, top: Digest | None
    ) -> tuple[ImageRecord, str]:
        reference = operation.reference
        if top:
            operation.needs.digests.add(str(top))
        found = await pull.resolve(repository, self._content, reference, top, self._platform)
        work = Unpacking(
            reference,
            found,
            content=self._content,
            layers=self._layers,
            held_lock=self._held_lock,
            needs=operation.needs,
            want=self._platform,
        )
        operation.statuses = work.statuses
        known = {layer.digest for record in self._records.all() for layer in record.layers}
        return await work.run(repository, known), str(found.top)

    async def _unchanged(self, repo_digest: str, operation: Operation) -> ImageRecord | None:
        """The image that has this repo digest, if all of it is here."""
        record = next((r for r in self._records.all() if repo_digest in r.repo_digests), None)
        if record is None:
            return None
        operation.needs.digests |= record.blobs
        operation.needs.diff_ids |= set(record.diff_ids)
        async with self._held_lock:
            held = {layer.diff_id for layer in await self._layers.list_layers(record.diff_ids)}
        whole = self._content.has(record.id) and held >= set(record.diff_ids)
        return record if whole else None

    async def _name(self, reference: Reference, made: ImageRecord, top: str, start: float) -> ImageRecord:
        """Store the record under its new names; a tag leaves the image that had it."""
        tag = str(reference) if reference.tag else ""
        repo_digest = f"{reference.repository}@{top}"
        event = ImagePulled(
            id=made.id,
            reference=str(reference),
            size_bytes=made.size_bytes,
            duration_ms=round((time.monotonic() - start) * 1e3),
        )
        async with self._names_lock:
            for other in self._records.all():
                if tag in other.repo_tags and other.id != made.id:
                    await self._records.update(other.id, lambda r: _untagged(r, tag))
            old = self._records.find(made.id)
            if old is None:
                named = _named(msgspec.structs.replace(made, repo_tags=(), repo_digests=()), tag, repo_digest)
                return await self._records.create(named, event)
            if tag in ("", *old.repo_tags) and repo_digest in old.repo_digests and old.layers == made.layers:
                await self._records.emit(event)
                return old
            return await self._records.update(
                made.id, lambda r: _named(_merged(r, made), tag, repo_digest), event
            )

    def _named(self, text: str, *, strict: bool) -> ImageRecord | None:
        try:
            name = str(Reference.parse(text))
        except InvalidArgumentError:
            if strict:
                raise
            return None
        return next((r for r in self._records.all() if name in r.repo_tags or name in r.repo_digests), None)

    def _present(self, record: ImageRecord | None, text: str) -> ImageRecord:
        if record is None:
            raise NotFoundError(f"image {text!r} not found")
        return record


def _untagged(record: ImageRecord, tag: str) -> ImageRecord:
    return msgspec.structs.replace(record, repo_tags=tuple(t for t in record.repo_tags if t != tag))


def _named(record: ImageRecord, tag: str, repo_digest: str) -> ImageRecord:
    tags = dict.fromkeys((*record.repo_tags, tag) if tag else record.repo_tags)
    digests = dict.fromkeys((*record.repo_digests, repo_digest))
    return msgspec.structs.replace(record, repo_tags=tuple(tags), repo_digests=tuple(digests))


def _merged(old: ImageRecord, made: ImageRecord) -> ImageRecord:
    """The same config under another manifest: the newer blobs count, documents of both stay."""
    both = tuple(dict.fromkeys((*old.documents, *made.documents)))
    return msgspec.structs.replace(
        made, documents=both, repo_tags=old.repo_tags, repo_digests=old.repo_digests, revision=old.revision
    )
