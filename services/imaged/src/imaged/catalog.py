"""Which image has which name: look-ups, and who may give or take a name. The only writer of image records."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import msgspec

from common import buildcache
from common.clock import now_ns
from common.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from common.events.schema import MAX_NAMES, Event, ImageRemoved, ImageTagged, ImageUntagged
from common.observe.log import get_logger
from common.records import RecordStore
from imaged.record import ImageRecord
from imaged.reference import DEFAULT_DOMAIN, Reference, expanded

_ID = re.compile(r"(?:sha256:)?([a-f0-9]{64})")
_PREFIX = re.compile(r"(?:sha256:)?([a-f0-9]{1,63})")
_LEASE = re.compile(r"[A-Za-z0-9_.-]{1,128}")
MAX_LEASES = 64
"""Of one image."""
USE_GRAIN_NS = 10**9
_log = get_logger("imaged")


@dataclass(frozen=True, slots=True)
class Untagged:
    """What `Catalog.untag` took away: names, and the image when nothing is left of them."""

    names: list[str]
    image: ImageRecord | None


class Catalog:
    """Image records by name.

    Args:
        records: loaded.
        short_names: the registry of names that have none; empty for none.
    """

    def __init__(self, records: RecordStore[ImageRecord], short_names: str = DEFAULT_DOMAIN) -> None:
        self._records = records
        self._short_names = short_names
        self._lock = anyio.Lock()

    def all(self) -> list[ImageRecord]:
        return self._records.all()

    def find(self, text: str) -> ImageRecord:
        """An image by tag, digest, id or unambiguous id prefix.

        Raises:
            InvalidArgumentError: the prefix fits several images, or the text is no reference.
            NotFoundError: it is not here.
        """
        whole = _ID.fullmatch(text)
        if whole:
            return _present(self._records.find(f"sha256:{whole[1]}"), text)
        prefix = _PREFIX.fullmatch(text)
        named = None if text.startswith("sha256:") else self._by_name(text, strict=prefix is None)
        if named or not prefix:
            return _present(named, text)
        fits = [r for r in self._records.all() if r.id.startswith(f"sha256:{prefix[1]}")]
        if len(fits) > 1:
            raise InvalidArgumentError(f"image id prefix {text!r} fits {len(fits)} images")
        return _present(fits[0] if fits else None, text)

    def select(self, text: str = "") -> list[ImageRecord]:
        """All images, or the one that has this name."""
        if not text:
            return sorted(self._records.all(), key=lambda r: r.id)
        try:
            return [self.find(text)]
        except NotFoundError:
            return []

    async def keep(
        self,
        made: ImageRecord,
        event: Event,
        *,
        tags: tuple[str, ...] = (),
        repo_digest: str = "",
        move: bool = True,
    ) -> ImageRecord:
        """Store a record under new names; with `move`, a tag leaves the image that had it.

        Raises:
            AlreadyExistsError: without `move`, a tag is another image's.
        """
        async with self._changing():
            if not move:
                self.refuse_moves(made.id, tags)
            for tag in tags:
                await self._take(tag, but=made.id)
            old = self._records.find(made.id)
            if old is None:
                named = _named(
                    msgspec.structs.replace(made, repo_tags=(), repo_digests=()), tags, repo_digest
                )
                return await self._records.create(named, event)
            known = {*old.repo_tags, *old.repo_digests} >= {*tags, *filter(None, (repo_digest,))}
            same = old.layers == made.layers and _platform(old, made) == old.platform
            if known and same and old.blobs >= made.blobs:
                return await self._records.update(made.id, lambda r: _used(r, now_ns()), event)
            return await self._records.update(
                made.id, lambda r: _named(_used(_merged(r, made), now_ns()), tags, repo_digest), event
            )

    async def use(self, image_id: str, at_ns: int) -> None:
        """Remember that an image was used; to the second, which spares the writes of containers by the dozen."""
        async with self._lock:
            record = self._records.find(image_id)
            if record and at_ns - record.last_used_ns >= USE_GRAIN_NS:
                await self._records.update(image_id, lambda r: _used(r, at_ns))

    async def lease(self, text: str, name: str, until_ns: int, *, at_ns: int) -> ImageRecord:
        """Hold an image by a lease until a time; one that is over ends the lease.

        Raises:
            InvalidArgumentError: the name is malformed.
            NotFoundError: the image is not here.
            ResourceExhaustedError: it has too many leases.
        """
        if not _LEASE.fullmatch(name):
            raise InvalidArgumentError(f"lease {name[:200]!r}: want 1 to 128 of [A-Za-z0-9_.-]")
        async with self._lock:
            record = self.find(text)
            left = {n: u for n, u in record.leases.items() if u > at_ns and n != name}
            if until_ns > at_ns:
                left[name] = until_ns
            if len(left) > MAX_LEASES:
                raise ResourceExhaustedError(f"image {text}: it has {MAX_LEASES} leases already")
            _log.info("image.leased", image_id=record.id, lease=name, until_ns=until_ns)
            return await self._records.update(record.id, lambda r: msgspec.structs.replace(r, leases=left))

    def refuse_moves(self, image_id: str, tags: tuple[str, ...]) -> None:
        """Raise when a tag is another image's.

        Raises:
            AlreadyExistsError: names the first such tag, and the image.
        """
        for tag in tags:
            owner = next((r for r in self._records.all() if tag in r.repo_tags and r.id != image_id), None)
            if owner:
                raise AlreadyExistsError(f"{tag} is the image {owner.id} here, not {image_id}")

    async def tag(self, text: str, target: str) -> ImageRecord:
        """Give an image one more name; it leaves the image that had it.

        Raises:
            InvalidArgumentError: the target is no tag, or one that only builds give.
            NotFoundError: the image is not here.
        """
        name = tag_of(target)
        if buildcache.is_cache((name,)):
            raise InvalidArgumentError(f"{name}: only builds give such names")
        async with self._changing():
            record = self.find(text)
            if name in record.repo_tags:
                return record
            await self._take(name, but=record.id)
            _log.info("image.tagged", image_id=record.id, name=name)
            return await self._records.update(
                record.id, lambda r: _named(r, (name,), ""), ImageTagged(id=record.id, reference=name)
            )

    async def untag(
        self, text: str, *, force: bool, in_use: set[tuple[str, ...]], keep_last: bool = False
    ) -> Untagged:
        """Take a name away, and the image with its last one, by the rules of `docker rmi`.

        Args:
            text: a name takes that name; an id takes the image with all names.
            force: also an image that several repositories name, when asked by id, or that is in use.
            in_use: stacks of layers that containers stand on.
            keep_last: the image stays, without a name.

        Raises:
            FailedPreconditionError: this needs `force`, as when a lease holds the image.
            NotFoundError: the image is not here.
        """
        async with self._lock:
            record = self.find(text)
            name = _name_in(record, text)
            left = _without(record, name) if name else msgspec.structs.replace(record, repo_tags=())
            given = buildcache.given(record.names)
            if not name and not force and len({_repository(n) for n in given}) > 1:
                raise FailedPreconditionError(
                    f"image {text}: several repositories name it ({', '.join(given)}): "
                    "name one of them, or use force"
                )
            gone = [n for n in record.names if n not in left.names]
            if keep_last or (name and left.names):
                event = ImageUntagged(id=record.id, references=gone[:MAX_NAMES])
                await self._records.update(record.id, lambda r: _without(r, *gone), event)
                _log.info("image.untagged", image_id=record.id, names=gone[:MAX_NAMES])
                return Untagged(gone, None)
            if record.diff_ids in in_use and not force:
                raise FailedPreconditionError(f"image {text}: a container uses it: remove that, or use force")
            lease = record.lease_at(now_ns())
            if lease and not force:
                raise FailedPreconditionError(
                    f"image {text}: the lease {lease!r} holds it: end that, or use force"
                )
            await self._delete(record)
            return Untagged(record.names, record)

    async def remove(self, text: str) -> ImageRecord | None:
        """Remove an image with all its names; None when it is not here."""
        async with self._lock:
            try:
                record = self.find(text)
            except NotFoundError:
                return None
            await self._delete(record)
        return record

    async def remove_unchanged(self, seen: ImageRecord) -> bool:
        """Remove an image if it has still the names that it was seen with; returns whether it went."""
        async with self._lock:
            record = self._records.find(seen.id)
            if record is None or record.revision != seen.revision:
                return False
            await self._delete(record)
            return True

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        """For several changes, all of which are made once one is: a name that leaves one image is then another's."""
        async with self._lock:
            with anyio.CancelScope(shield=True):
                yield

    async def _delete(self, record: ImageRecord) -> None:
        await self._records.delete(record.id, ImageRemoved(id=record.id, references=record.names[:MAX_NAMES]))
        _log.info("image.removed", image_id=record.id, names=record.names[:MAX_NAMES])

    async def _take(self, tag: str, *, but: str) -> None:
        for other in self._records.all():
            if tag in other.repo_tags and other.id != but:
                await self._records.update(other.id, lambda r: _untagged(r, tag))

    def _by_name(self, text: str, *, strict: bool) -> ImageRecord | None:
        try:
            names = [str(Reference.parse(text))]
        except InvalidArgumentError:
            if strict:
                raise
            return None
        if self._short_names:
            names.insert(0, str(Reference.parse(expanded(text, self._short_names))))
        for name in names:
            found = [record for record in self._records.all() if name in record.names]
            if found:  # a digest of an index is a name for each of its platforms that was asked for
                return min(found, key=lambda record: bool(record.platform))
        return None


def tag_of(text: str) -> str:
    """A normalised tag.

    Raises:
        InvalidArgumentError: it is no reference, or one with a digest.
    """
    reference = Reference.parse(text)
    if reference.digest:
        raise InvalidArgumentError(f"{text!r} has a digest, which nobody chooses: give a name and a tag")
    if reference.path == "library/sha256":
        raise InvalidArgumentError(f"{text!r} would look like the id of an image: choose another name")
    return str(reference)


def _present(record: ImageRecord | None, text: str) -> ImageRecord:
    if record is None:
        raise NotFoundError(f"image {text!r} not found")
    return record


def _name_in(record: ImageRecord, text: str) -> str:
    """The name of the record that a text means; empty when it means the id."""
    try:
        name = str(Reference.parse(text))
    except InvalidArgumentError:
        return ""
    return name if name in record.names else ""


def _repository(name: str) -> str:
    return Reference.parse(name).repository


def _untagged(record: ImageRecord, tag: str) -> ImageRecord:
    return msgspec.structs.replace(record, repo_tags=tuple(t for t in record.repo_tags if t != tag))


def _without(record: ImageRecord, *names: str) -> ImageRecord:
    """Without these names, nor the digests of a repository whose last tag is among them."""
    tags = tuple(t for t in record.repo_tags if t not in names)
    lost = {_repository(t) for t in record.repo_tags} - {_repository(t) for t in tags}
    digests = tuple(d for d in record.repo_digests if d not in names and _repository(d) not in lost)
    return msgspec.structs.replace(record, repo_tags=tags, repo_digests=digests)


def _used(record: ImageRecord, at_ns: int) -> ImageRecord:
    return msgspec.structs.replace(record, used_at_ns=max(record.used_at_ns, at_ns))


def _named(record: ImageRecord, tags: tuple[str, ...], repo_digest: str) -> ImageRecord:
    digests = (*record.repo_digests, repo_digest) if repo_digest else record.repo_digests
    return msgspec.structs.replace(
        record,
        repo_tags=tuple(dict.fromkeys((*record.repo_tags, *tags))),
        repo_digests=tuple(dict.fromkeys(digests)),
    )


def _platform(old: ImageRecord, made: ImageRecord) -> str:
    """What an image is for, when that is not this node's platform: not when this node chose it once by itself."""
    return made.platform and old.platform


def _merged(old: ImageRecord, made: ImageRecord) -> ImageRecord:
    """The same config under another manifest: the newer blobs count, documents of both stay, the newer ones first."""
    return msgspec.structs.replace(
        made,
        documents=tuple(dict.fromkeys((*made.documents, *old.documents))),
        others=tuple(dict.fromkeys((*made.others, *old.others))),
        platform=_platform(old, made),
        repo_tags=old.repo_tags,
        repo_digests=old.repo_digests,
        revision=old.revision,
        used_at_ns=old.used_at_ns,
        leases=old.leases,
    )
