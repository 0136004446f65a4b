"""An image of one layer in a registry, and the fetch of that layer."""

from typing import TYPE_CHECKING

import pytest

from common.errors import SlipwayError
from imaged.adapters.content_local import LocalContent
from imaged.adapters.registry import HttpRegistry
from imaged.manifest import Descriptor
from imaged.ports import Credentials
from imaged.reference import Reference

if TYPE_CHECKING:
    from services.imaged.tests.conftest import Tools

NOBODY = Credentials()


class OneLayer:
    """A single-layer image and the fetch of its layer."""

    def __init__(self, tools: "Tools", registry: HttpRegistry, content: LocalContent, host: str) -> None:
        self.image = tools.image_of([tools.tar_of({"f": bytes(range(256)) * 20000})], compression="none")
        found = self.image.layers[0]
        self.wanted = Descriptor(found["digest"], found["size"], found["mediaType"])
        self.body = self.image.blobs[found["digest"]]
        self.reference = Reference.parse(f"{host}/some/app:v1")
        self.registry, self._content = registry, content

    async def fetch(self, credentials: Credentials = NOBODY) -> bytes:
        async with (
            self.registry.repository(self.reference, credentials) as repository,
            self._content.ingest(self.wanted) as ingest,
        ):
            await repository.fetch(self.wanted, ingest.partial)
            await ingest.sync()
            await ingest.commit()
        return await self._content.read(self.wanted.digest)


async def failure(layer: OneLayer) -> SlipwayError:
    """What a fetch of the layer says that cannot succeed."""
    with pytest.raises(SlipwayError) as caught:
        await layer.fetch()
    assert str(layer.reference) in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value
