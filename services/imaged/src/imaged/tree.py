"""What a manifest or an index leads to: all documents below it, and their blobs."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from common.errors import InvalidArgumentError
from imaged import manifest as documents
from imaged.manifest import Descriptor

MAX_DOCUMENTS = 1000


@dataclass(frozen=True, slots=True)
class Tree:
    """A document with all that it leads to."""

    documents: dict[str, bytes]
    """By digest, those that others name first."""
    blobs: dict[str, Descriptor]

    @property
    def top(self) -> str:
        return list(self.documents)[-1]


async def read_tree(image: str, top: str, read: Callable[[str], Awaitable[bytes]]) -> Tree:
    """Read a document and all that it leads to.

    Raises:
        InvalidArgumentError: it leads to too many, or one is malformed.
    """
    tree = Tree({}, {})
    seen: set[str] = set()

    async def walk(digest: str) -> None:
        if digest in seen:
            return
        seen.add(digest)
        if len(seen) > MAX_DOCUMENTS:
            raise InvalidArgumentError(f"image {image}: more than {MAX_DOCUMENTS} manifests")
        body = await read(digest)
        below, blobs = documents.links(image, body)
        for entry in below:
            await walk(entry.digest)
        tree.blobs.update({blob.digest: blob for blob in blobs})
        tree.documents[digest] = body

    await walk(top)
    return tree
