"""Whether all of an image is here as blobs, and how it becomes so.

A layer that another image had brought unpacked was never fetched in this image's compressed form. Who passes an
image on needs that form.
"""

from common.errors import FailedPreconditionError, InvalidArgumentError, SlipwayError
from imaged import manifest as documents
from imaged.lazy.store import LazyBlobs
from imaged.leases import Needs
from imaged.manifest import Descriptor, Index
from imaged.ports import Content, Credentials, Registry
from imaged.record import ImageRecord
from imaged.reference import Reference


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
        if self._lazies:
            for each in record.layers:
                await self._lazies.until_whole(each.digest)
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
                        async with self._content.ingest(layer) as ingest:
                            if not ingest.committed:
                                await repository.fetch(layer, ingest.partial)
                                await ingest.sync()
                                await ingest.commit()
                        del missing[layer.digest]
            except SlipwayError as exc:
                why = exc.message
        if missing:
            raise FailedPreconditionError(
                f"image {record.id}: layer {min(missing)} is here only unpacked, and cannot be fetched: {why}"
            )

    async def top(self, record: ImageRecord) -> tuple[str, set[str]]:
        """The highest document of an image of which everything is here, and all digests from it downwards.

        That is an index when all of its platforms were loaded, else the manifest.
        """
        known: dict[str, set[str] | None] = {}
        for digest in record.documents:
            below = await self._below(digest, known)
            if below and record.manifest_digest in below:
                return digest, below
        layers = {layer.digest for layer in record.layers}
        return record.manifest_digest, {record.manifest_digest, record.id, *layers}

    async def _below(self, digest: str, known: dict[str, set[str] | None]) -> set[str] | None:
        """A document with all that it leads to; None when something of it is not here, or is no image."""
        if digest not in known:
            known[digest] = await self._look(digest, known)
        return known[digest]

    async def _look(self, digest: str, known: dict[str, set[str] | None]) -> set[str] | None:
        if not self._content.has(digest):
            return None
        try:
            read = documents.parse(digest, await self._content.read(digest), "")
        except InvalidArgumentError:
            return None
        if not isinstance(read, Index):
            blobs = {read.config.digest, *(layer.digest for layer in read.layers)}
            return {digest, *blobs} if all(map(self._content.has, blobs)) else None
        found = {digest}
        for entry in read.manifests:
            below = await self._below(entry.digest, known)
            if below is None:
                return None
            found |= below
        return found
