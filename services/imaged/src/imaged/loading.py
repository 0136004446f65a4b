"""Images from an archive: read and checked whole, then kept, then named."""

from collections.abc import AsyncIterator

import anyio.to_thread

from common.digest import Digest
from common.events.schema import ImageLoaded
from common.observe.log import get_logger
from imaged.archive.contents import Found, images_of
from imaged.catalog import Catalog
from imaged.lazy.store import LazyBlobs
from imaged.leases import Leases, Needs
from imaged.manifest import Descriptor, Platform
from imaged.ports import Archives, Content, Layers
from imaged.pull import Unpacking
from imaged.record import ImageRecord
from imaged.signatures import Trust

_log = get_logger("imaged")


class Loads:
    """Takes archives in.

    Args:
        archives: reads them.
        catalog: gets the images.
        leases: keep what comes while it has no image yet.
        content: blobs.
        layers: where they are unpacked.
        want: the platform.
        trust: holds images to a policy; None lets all pass.
        lazies: what comes while it is used.
    """

    def __init__(
        self,
        archives: Archives,
        catalog: Catalog,
        leases: Leases,
        content: Content,
        layers: Layers,
        want: Platform,
        trust: Trust | None = None,
        lazies: LazyBlobs | None = None,
    ) -> None:
        self._trust, self._lazies = trust, lazies
        self._archives, self._catalog, self._leases = archives, catalog, leases
        self._content, self._layers, self._want = content, layers, want

    async def load(
        self, chunks: AsyncIterator[bytes], *, name: str, replace: bool
    ) -> list[tuple[ImageRecord, tuple[str, ...]]]:
        """Load an archive's images for this platform; all, or none when one cannot be had.

        Args:
            chunks: the archive, compressed or not.
            name: a name for the only image; of several, the repository that their tags belong to.
            replace: names may leave the images that have them.

        Returns:
            The images, each with the names that the archive gave it.

        Raises:
            AlreadyExistsError: a name is another image's, and `replace` is not given.
            DataLossError, InvalidArgumentError, ResourceExhaustedError: as `imaged.ports.Archives` says.
            NotFoundError: no image in it is for this platform.
            FailedPreconditionError: a layer in it comes already while it is used, and does not become whole.
            UnknownError: the signature policy lets one of them not pass.
        """
        needs = Needs()
        try:
            async with self._archives.spool(chunks) as archive:
                found = await anyio.to_thread.run_sync(images_of, archive, self._want, name)
                with self._leases.hold(needs):
                    return await self._keep(found, needs, replace=replace)
        finally:
            await self._leases.collect(needs.digests, needs.diff_ids)

    async def _keep(
        self, found: list[Found], needs: Needs, *, replace: bool
    ) -> list[tuple[ImageRecord, tuple[str, ...]]]:
        if self._trust:
            for image in found:
                await self._trust.check_archived(image.form, image.names, image.bodies, image.signed)
        if not replace:
            for image in found:
                self._catalog.refuse_moves(image.resolved.manifest.config.digest, image.names)
        made = [(image, await self._unpacked(image, needs)) for image in found]
        kept = []
        for image, record in made:
            event = ImageLoaded(id=record.id, references=list(image.names), size_bytes=record.size_bytes)
            stored = await self._catalog.keep(record, event, tags=image.names, move=replace)
            _log.info("image.loaded", image_id=record.id, names=image.names, size_bytes=record.size_bytes)
            kept.append((stored, image.names))
        return kept

    async def _unpacked(self, image: Found, needs: Needs) -> ImageRecord:
        needs.digests |= {*image.bodies, *image.files}
        for digest, body in image.bodies.items():
            await self._content.put(Digest.parse(digest), body)
        for digest, file in image.files.items():
            if self._lazies:
                await self._lazies.until_whole(digest)
            await self._content.adopt(Descriptor(digest, file.size), file.path)
        what = ", ".join(image.names) or image.resolved.manifest.config.digest
        work = Unpacking(
            what,
            image.resolved,
            content=self._content,
            layers=self._layers,
            held_lock=self._leases.lock,
            needs=needs,
            want=self._want,
        )
        return await work.run(None, ())
