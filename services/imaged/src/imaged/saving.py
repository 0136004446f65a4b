"""Images into an archive: an OCI layout with docker's manifest.json beside it, as docker itself writes.

The same images always give the same bytes.
"""

import io
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio
import msgspec

from common import buildcache
from common.digest import Digest
from common.errors import InvalidArgumentError
from imaged import manifest as documents
from imaged.archive.contents import NAME, REF_NAME
from imaged.archive.tarstream import BLOCK
from imaged.catalog import Catalog
from imaged.leases import Leases, Needs
from imaged.ports import Content, Credentials
from imaged.pull import NO_CHOICE, Choice
from imaged.record import ImageRecord
from imaged.reference import Reference
from imaged.whole import Top, Whole

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Chosen:
    record: ImageRecord
    names: tuple[str, ...]
    top: Top
    """What the archive's index names."""


class Saves:
    """Writes archives.

    Args:
        catalog: finds the images.
        leases: keep what is being read.
        content: blobs.
        whole: brings what is missing of an image.
    """

    def __init__(self, catalog: Catalog, leases: Leases, content: Content, whole: Whole) -> None:
        self._catalog, self._leases, self._content, self._whole = catalog, leases, content, whole

    async def save(
        self, texts: list[str], credentials: Credentials, choice: Choice = NO_CHOICE
    ) -> AsyncIterator[bytes]:
        """The archive, piece by piece; it begins when all that belongs to it is here.

        Raises:
            InvalidArgumentError: no image is named.
            NotFoundError: an image is not here, or not for the platform that was chosen.
            FailedPreconditionError: the compressed form of a layer is not here, and no registry has it; or all platforms were
                asked for and are not here.
        """
        if not texts:
            raise InvalidArgumentError("save: name at least one image")
        with self._leases.hold() as needs:
            chosen = [await self._choose(text, needs, credentials, choice) for text in dict.fromkeys(texts)]
            for name, body in (
                ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
                ("index.json", await self._index(chosen)),
                ("manifest.json", await self._docker(chosen)),
            ):
                yield _header(name, len(body)) + body + bytes(-len(body) % BLOCK)
            for digest in sorted({digest for image in chosen for digest in image.top.below}):
                async for piece in self._blob(digest):
                    yield piece
            yield bytes(2 * BLOCK)

    async def _choose(self, text: str, needs: Needs, credentials: Credentials, choice: Choice) -> _Chosen:
        record = self._catalog.find(text)
        needs.add(record)
        await self._whole.complete(record, needs, credentials)
        top = await self._whole.top(record, choice)
        needs.digests |= top.below  # which may be another image's
        return _Chosen(record, _named(text, record), top)

    async def _index(self, chosen: list[_Chosen]) -> bytes:
        entries = []
        for image in chosen:
            body = await self._content.read(image.top.digest)
            base = {"mediaType": documents.kind_of(body), "digest": image.top.digest, "size": len(body)}
            for name in image.names:
                tag = Reference.parse(name).tag
                entries.append(base | {"annotations": {NAME: name, REF_NAME: tag}})
            if not image.names:
                entries.append(base)
        kind = documents.INDEX_TYPES[0]
        return msgspec.json.encode({"schemaVersion": 2, "mediaType": kind, "manifests": entries})

    async def _docker(self, chosen: list[_Chosen]) -> bytes:
        return msgspec.json.encode(
            [
                {
                    "Config": _path(image.top.config),
                    "RepoTags": list(image.names) or None,
                    "Layers": [_path(digest) for digest in image.top.layers],
                }
                for image in chosen
                if not image.record.artifact_type  # which docker does not know
            ]
        )

    async def _blob(self, digest: str) -> AsyncIterator[bytes]:
        async with await anyio.open_file(self._content.path(digest), "rb") as file:
            size = await file.seek(0, io.SEEK_END)
            await file.seek(0)
            yield _header(_path(digest), size)
            while piece := await file.read(PIECE_BYTES):
                yield piece
        yield bytes(-size % BLOCK)


def _named(text: str, record: ImageRecord) -> tuple[str, ...]:
    """The tag that was asked for, if somebody gave it; asked by id, all such tags."""
    given = tuple(buildcache.given(record.repo_tags))
    try:
        name = str(Reference.parse(text))
    except InvalidArgumentError:
        return given
    if name in record.repo_digests:
        return ()
    return tuple(tag for tag in given if tag == name) if name in record.repo_tags else given


def _path(digest: str) -> str:
    parsed = Digest.parse(digest)
    return f"blobs/{parsed.algorithm}/{parsed.hex}"


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.USTAR_FORMAT if size < 8 << 30 else tarfile.GNU_FORMAT)
