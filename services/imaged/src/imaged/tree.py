"""What a manifest or an index leads to: all documents below it, and their blobs."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from common.errors import InvalidArgumentError
from imaged import manifest as documents
from imaged.manifest import Descriptor

MAX_DOCUMENTS = 1000
MAX_DOCUMENTS_BYTES = 32 << 20
"""Of all of a tree, which are held in memory."""
MAX_BLOBS = 10_000


@dataclass(frozen=True, slots=True)
class Tree:
    """A document with all that it leads to."""

    documents: dict[str, bytes]
    """By digest, those that others name first."""
    blobs: dict[str, Descriptor]

    @property
    def top(self) -> str:
        return list(self.documents)[-1]

    def without(self, digests: Collection[str]) -> "Tree":
        """All of it but for these documents and blobs."""
        return Tree(
            {digest: body for digest, body in self.documents.items() if digest not in digests},
            {digest: blob for digest, blob in self.blobs.items() if digest not in digests},
        )


async def read_tree(image: str, top: str, read: Callable[[str], Awaitable[bytes]]) -> Tree:
    """Read a document and all that it leads to.

    Raises:
        InvalidArgumentError: it leads to too many, or one is malformed.
    """
    tree = Tree({}, {})
    seen: set[str] = set()
    left = MAX_DOCUMENTS_BYTES

    async def walk(digest: str, depth: int) -> None:
        if digest in seen:
            return
        nonlocal left
        seen.add(digest)
        if depth > documents.MAX_INDEX_DEPTH:
            raise InvalidArgumentError(
                f"image {image}: indexes within indexes, deeper than {documents.MAX_INDEX_DEPTH}"
            )
        if len(seen) > MAX_DOCUMENTS:
            raise InvalidArgumentError(f"image {image}: more than {MAX_DOCUMENTS} manifests")
        body = await read(digest)
        left -= len(body)
        if left < 0:
            raise InvalidArgumentError(f"image {image}: more than {MAX_DOCUMENTS_BYTES} bytes of manifests")
        below, blobs = documents.links(image, body)
        for entry in below:
            await walk(entry.digest, depth + 1)
        tree.blobs.update({blob.digest: blob for blob in blobs})
        if len(tree.blobs) > MAX_BLOBS:
            raise InvalidArgumentError(f"image {image}: more than {MAX_BLOBS} blobs")
        tree.documents[digest] = body

    await walk(top, 1)
    return tree
