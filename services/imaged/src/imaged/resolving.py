"""From a reference to the manifest of one platform's image, and to all else that it leads to where that is wanted, too.

reference ─→ document ─→ index? choose, again ─→ manifest
"""

from dataclasses import dataclass, field, replace

from common.digest import Digest
from common.errors import InvalidArgumentError
from common.failpoint import failpoint
from imaged import manifest as documents
from imaged.leases import Needs
from imaged.manifest import Descriptor, Manifest, Platform
from imaged.ports import Content, Repository
from imaged.record import LayerRecord
from imaged.reference import Reference
from imaged.tree import Tree, read_tree


@dataclass(slots=True)
class Resolved:
    """The documents from the reference down to one platform's manifest."""

    top: Digest
    manifest_digest: Digest
    manifest: Manifest
    documents: tuple[str, ...]
    beside: Tree = field(default_factory=lambda: Tree({}, {}))
    """What else the top leads to, where that is wanted too: other platforms."""
    platform: str = ""
    """What the manifest is for, when this node by itself would not choose it of its index."""

    def with_all(self, tree: Tree) -> "Resolved":
        """With all of the tree of its top."""
        manifest = self.manifest
        mine = {*self.documents, manifest.config.digest, *(layer.digest for layer in manifest.layers)}
        return replace(self, beside=tree.without(mine))

    @property
    def image_id(self) -> str:
        """Of the image's record; artifacts may well share their config."""
        return str(self.manifest_digest) if self.manifest.artifact_type else self.manifest.config.digest

    @property
    def kept(self) -> tuple[str, ...]:
        """All documents that stay with the image."""
        return (*self.documents, *self.beside.documents)

    @property
    def others(self) -> tuple[LayerRecord, ...]:
        """The blobs of other platforms that stay with the image."""
        return tuple(map(recorded, self.beside.blobs.values()))


async def resolve(
    repository: Repository,
    content: Content,
    needs: Needs,
    reference: Reference,
    top: Digest | None,
    want: Platform,
) -> Resolved:
    """Fetch and store the documents of a reference.

    Args:
        repository: where to ask.
        content: documents that are here are not fetched again.
        needs: gets what is counted on.
        reference: the image.
        top: its digest, when known.
        want: the platform.

    Raises:
        SlipwayError: as `Repository` and `imaged.manifest` raise.
    """
    image = str(reference)
    name, seen, kind, platform = str(top or reference.object), [], "", ""
    first: Digest | None = None
    for _ in range(documents.MAX_INDEX_DEPTH):
        if content.has(name):
            needs.digests.add(name)
            digest, body = Digest.parse(name), await content.read(name)
        else:
            document = await repository.document(name)
            digest, body, kind = document.digest, document.body, document.media_type or kind
        read = documents.parse(image, body, kind)
        needs.digests.add(str(digest))
        await content.put(digest, body)
        first = first or digest
        seen.append(str(digest))
        if isinstance(read, Manifest):
            await failpoint("imaged.pull.resolved")
            return Resolved(first, digest, read, tuple(seen), platform=platform)
        chosen = documents.choose(image, read, want)
        name, kind = chosen.digest, chosen.media_type
        if documents.of_another(image, read, chosen):
            platform = str(want)
    raise InvalidArgumentError(
        f"image {image}: indexes within indexes, deeper than {documents.MAX_INDEX_DEPTH}"
    )


async def resolve_all(
    repository: Repository, content: Content, needs: Needs, reference: Reference, found: Resolved
) -> Resolved:
    """Fetch and store all other documents that a reference leads to.

    Raises:
        SlipwayError: as `Repository` and `imaged.tree` raise.
    """

    async def read(digest: str) -> bytes:
        needs.digests.add(digest)
        if content.has(digest):
            return await content.read(digest)
        document = await repository.document(digest)
        await content.put(document.digest, document.body)
        return document.body

    return found.with_all(await read_tree(str(reference), str(found.top), read))


def recorded(blob: Descriptor) -> LayerRecord:
    """A blob as an image's record has it."""
    return LayerRecord(digest=blob.digest, size_bytes=blob.size, media_type=blob.media_type)
