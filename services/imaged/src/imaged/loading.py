"""Images from an archive: read and checked whole, then kept, then named."""

from collections.abc import AsyncIterator
from dataclasses import replace

import anyio.to_thread

from common.digest import Digest
from common.errors import InvalidArgumentError
from common.events.schema import MAX_NAMES, ImageLoaded
from common.observe.log import get_logger
from imaged.archive.contents import WHAT, Found, document_of, files_of, images_of
from imaged.bringing import Bringing
from imaged.catalog import Catalog
from imaged.leases import Leases, Needs
from imaged.manifest import Descriptor, Platform, platform_of
from imaged.ports import Archives, Content, Spooled
from imaged.record import ImageRecord
from imaged.signatures import Trust
from imaged.tree import read_tree

_log = get_logger("imaged")


class Loads:
    """Takes archives in.

    Args:
        archives: reads them.
        catalog: gets the images.
        leases: keep what comes while it has no image yet.
        content: blobs.
        bringing: has them unpacked.
        want: the platform.
        trust: holds images to a policy; None lets all pass.
    """

    def __init__(
        self,
        archives: Archives,
        catalog: Catalog,
        leases: Leases,
        content: Content,
        bringing: Bringing,
        want: Platform,
        trust: Trust | None = None,
    ) -> None:
        self._archives, self._catalog, self._leases, self._content = archives, catalog, leases, content
        self._bringing, self._want, self._trust = bringing, want, trust

    async def load(
        self, chunks: AsyncIterator[bytes], *, name: str, replace: bool, platform: str = ""
    ) -> list[tuple[ImageRecord, tuple[str, ...]]]:
        """Load an archive's images; all, or none when one cannot be had.

        What it has of other platforms comes along as it is, where it has all that an index names.

        Args:
            chunks: the archive, compressed or not.
            name: a name for the only image; of several, the repository that their tags belong to.
            replace: names may leave the images that have them.
            platform: in place of this node's.

        Returns:
            The images, each with the names that the archive gave it.

        Raises:
            AlreadyExistsError: a name is another image's, and `replace` is not given.
            DataLossError, InvalidArgumentError, ResourceExhaustedError: as `imaged.ports.Archives` says.
            NotFoundError: no image in it is for the platform.
            FailedPreconditionError: a layer in it comes already while it is used, and does not become whole.
            UnknownError: the signature policy lets one of them not pass.
        """
        needs = Needs()
        want = platform_of(platform) if platform else self._want
        try:
            async with self._archives.spool(chunks) as archive:
                found = await anyio.to_thread.run_sync(images_of, archive, want, name)
                found = [await _with_all(archive, image) for image in found]
                with self._leases.hold(needs):
                    return await self._keep(found, want, needs, replace=replace)
        finally:
            await self._leases.collect(needs.digests, needs.diff_ids)

    async def _keep(
        self, found: list[Found], want: Platform, needs: Needs, *, replace: bool
    ) -> list[tuple[ImageRecord, tuple[str, ...]]]:
        if self._trust:
            for image in found:
                await self._trust.check_archived(image.form, image.names, image.bodies, image.signed)
        if not replace:
            for image in found:
                self._catalog.refuse_moves(image.resolved.image_id, image.names)
        made = [(image, await self._unpacked(image, want, needs)) for image in found]
        kept = []
        for image, record in made:
            told = list(image.names[:MAX_NAMES])
            event = ImageLoaded(id=record.id, references=told, size_bytes=record.size_bytes)
            stored = await self._catalog.keep(record, event, tags=image.names, move=replace)
            _log.info("image.loaded", image_id=record.id, names=told, size_bytes=record.size_bytes)
            kept.append((stored, image.names))
        return kept

    async def _unpacked(self, image: Found, want: Platform, needs: Needs) -> ImageRecord:
        bodies = image.bodies | image.resolved.beside.documents
        needs.digests |= {*bodies, *image.files}
        for digest, body in bodies.items():
            await self._content.put(Digest.parse(digest), body)
        for digest, file in image.files.items():
            await self._bringing.until_whole(digest)
            await self._content.adopt(Descriptor(digest, file.size), file.path)
        what = ", ".join(image.names) or image.resolved.image_id
        return await self._bringing.of(what, image.resolved, needs, want).run(None, ())


async def _with_all(archive: Spooled, image: Found) -> Found:
    """An image with what the archive has of its other platforms, when that is all that its index names."""

    async def read(digest: str) -> bytes:
        return await anyio.to_thread.run_sync(document_of, archive, digest)

    try:
        resolved = image.resolved.with_all(await read_tree(WHAT, str(image.resolved.top), read))
        others = files_of(archive, resolved.beside.blobs.values())
    except InvalidArgumentError:
        return image
    return replace(image, resolved=resolved, files=image.files | others)
