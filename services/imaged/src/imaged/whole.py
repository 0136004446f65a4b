"""Whether all of an image is here as blobs, and how it becomes so.

A layer that another image had brought unpacked was never fetched in this image's compressed form. Who passes an
image on needs that form.
"""

from dataclasses import dataclass, replace

from common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, SlipwayError
from imaged import manifest as documents
from imaged.lazy.store import LazyBlobs
from imaged.leases import Needs
from imaged.manifest import Descriptor, Index, Platform, local_platform, platform_of
from imaged.ports import Content, Credentials, Registry
from imaged.pull import NO_CHOICE, Choice, keep
from imaged.record import ImageRecord
from imaged.reference import Reference

ALL = "--all-platforms"


@dataclass(frozen=True, slots=True)
class Top:
    """The document that an image is passed on by."""

    digest: str
    below: set[str]
    """All digests from it downwards."""
    config: str
    """Of one platform of it."""
    layers: tuple[str, ...]
    """Of the same, bottom first."""


class Whole:
    """Completes images.

    Args:
        content: blobs.
        registry: where images come from.
        lazies: what comes while it is used.
    """

    def __init__(self, content: Content, registry: Registry, lazies: LazyBlobs | None = None) -> None:
        self._content, self._registry, self._lazies = content, registry, lazies

    async def complete(self, record: ImageRecord, needs: Needs, credentials: Credentials) -> None:
        """Fetch the compressed layers that are missing from where the image was pulled.

        Raises:
            FailedPreconditionError: no repository that is known for the image has one, or one that comes while it is
                used does not become whole.
        """
        needs.add(record)
        for each in record.layers:
            await self.until_whole(each.digest)
        missing = {
            layer.digest: Descriptor(layer.digest, layer.size_bytes, layer.media_type)
            for layer in record.layers
            if not self._content.has(layer.digest)
        }
        why = "no registry is known for it"
        for name in record.repo_digests:
            if not missing:
                return
            try:
                async with self._registry.repository(Reference.parse(name), credentials) as repository:
                    for layer in list(missing.values()):
                        await keep(repository, self._content, layer)
                        del missing[layer.digest]
            except SlipwayError as exc:
                why = exc.message
        if missing:
            raise FailedPreconditionError(
                f"image {record.id}: layer {min(missing)} is here only unpacked, and cannot be fetched: {why}"
            )

    async def until_whole(self, digest: str) -> None:
        """Wait for a blob that comes while it is used, if it does; see `LazyBlobs.until_whole`."""
        if self._lazies:
            await self._lazies.until_whole(digest)

    async def top(self, record: ImageRecord, choice: Choice = NO_CHOICE) -> Top:
        """What of an image is passed on: the highest document of which everything is here, unless somebody chose.

        That is an index when all of its platforms are here, else the manifest.

        Raises:
            NotFoundError: the platform that was chosen is not here.
            FailedPreconditionError: all platforms were asked for, and some are not here.
        """
        if choice.platform and choice.platform != (record.platform or str(local_platform())):
            return await self._of_platform(record, platform_of(choice.platform))
        own = _own(record)
        if choice.platform:
            return own
        known: dict[str, set[str] | None] = {}
        for digest in await self._path(record):
            below = await self._below(digest, known)
            if below:
                return replace(own, digest=digest, below=below)
            if choice.every:
                raise FailedPreconditionError(
                    f"image {record.id}: not all platforms of {digest} are here: pull it with {ALL} first"
                )
        return own

    async def below(self, digest: str) -> set[str] | None:
        """A document with all that it leads to; None when something of it is not here."""
        return await self._below(digest, {})

    async def left_out(self, record: ImageRecord, top: Top) -> list[str]:
        """The platforms of an image that are passed on by no such top, as the highest index names them."""
        found: set[str] = set()
        for digest in await self._path(record):
            if digest in top.below:
                break
            entries, _ = documents.links(digest, await self._content.read(digest))
            found |= {
                str(each.platform) for each in entries if each.platform and each.digest not in top.below
            }
        return sorted(found - {"unknown/unknown"})  # what BuildKit says of the build itself

    async def _path(self, record: ImageRecord) -> list[str]:
        """The documents that lead to an image's manifest, the highest first; of several indexes, from the newest."""
        for digest in record.documents:
            path = await self._between(digest, record.manifest_digest)
            if len(path) > 1:
                return path
        return [record.manifest_digest]

    async def _between(self, digest: str, end: str) -> list[str]:
        """The documents from one to another; none where it does not lead there."""
        if digest == end:
            return [end]
        if not self._content.has(digest):
            return []
        entries, _ = documents.links(digest, await self._content.read(digest))
        for entry in sorted(entries, key=lambda entry: entry.digest != end):
            if path := await self._between(entry.digest, end):
                return [digest, *path]
        return []

    async def _of_platform(self, record: ImageRecord, want: Platform) -> Top:
        name = next(iter(record.names), record.id)
        at = (await self._path(record))[0]
        for _ in range(documents.MAX_INDEX_DEPTH):
            if at == record.manifest_digest:
                if await self._suits(record, want):
                    return _own(record)
                break
            if not self._content.has(at):
                break
            read = documents.parse(name, await self._content.read(at), "")
            if isinstance(read, Index):
                at = documents.choose(name, read, want).digest
            elif below := await self._below(at, {}):
                return Top(at, below, read.config.digest, tuple(layer.digest for layer in read.layers))
            else:
                break
        raise NotFoundError(f"image {name}: nothing of it for {want} is here: pull it with {ALL} first")

    async def _suits(self, record: ImageRecord, want: Platform) -> bool:
        return bool(record.artifact_type) or documents.suits(await self._content.read(record.id), want)

    async def _below(self, digest: str, known: dict[str, set[str] | None]) -> set[str] | None:
        """A document with all that it leads to; None when something of it is not here."""
        if digest not in known:
            known[digest] = await self._look(digest, known)
        return known[digest]

    async def _look(self, digest: str, known: dict[str, set[str] | None]) -> set[str] | None:
        if not self._content.has(digest):
            return None
        try:
            entries, blobs = documents.links(digest, await self._content.read(digest))
        except InvalidArgumentError:
            return None
        found = {digest, *(blob.digest for blob in blobs)}
        if not all(map(self._content.has, found)):
            return None
        for entry in entries:
            below = await self._below(entry.digest, known)
            if below is None:
                return None
            found |= below
        return found


def _own(record: ImageRecord) -> Top:
    config, layers = record.id, tuple(layer.digest for layer in record.layers)
    return Top(record.manifest_digest, {record.manifest_digest, config, *layers}, config, layers)
