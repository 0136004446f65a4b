"""Images that a Dockerfile names: those that are here, those that are pulled, and the empty one."""

from collections.abc import AsyncIterator

from common.buildcache import SCRATCH
from common.clients.imaged import ImagedClient
from common.errors import NotFoundError
from slipway.building import scratch
from slipway.building.leases import Leases
from slipway.building.progress import Step
from slipway.options.credentials import auth_of
from slipway.output import render


class Bases:
    """What stages begin with, and what they copy from.

    Args:
        images: the node's imaged.
        leases: hold them.
        pull: also what is here, once each.
    """

    def __init__(self, images: ImagedClient, leases: Leases, *, pull: bool) -> None:
        self._images, self._leases, self._pull = images, leases, pull
        self._pulled: dict[str, str] = {}

    async def named(self, name: str, shown: Step | None = None) -> str:
        """An image by its name, pulled when it is not here, or when all are to be."""
        if name in self._pulled:
            return self._pulled[name]
        if not self._pull:
            try:
                return await self._leases.hold((await self._images.get(name)).id)
            except NotFoundError:
                pass
        image = ""
        async for progress in self._images.pull(name, auth_of(name, "")):
            image = progress.image.id
            if shown:
                here = sum(layer.fetched_bytes for layer in progress.layers)
                shown.note(
                    f"{render.size(here)} of {render.size(sum(layer.size_bytes for layer in progress.layers))}"
                )
        self._pulled[name] = await self._leases.hold(image)
        return image

    async def scratch(self) -> str:
        """An image without layers."""

        async def pieces() -> AsyncIterator[bytes]:
            yield scratch.archive()

        (loaded,) = await self._images.load(pieces(), name=SCRATCH, replace=True)
        return await self._leases.hold(loaded.image.id)
