"""Leases on the images that a build stands on and makes, so that nothing collects them before it ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio

from common.clients.imaged import ImagedClient
from common.errors import ResourceExhaustedError, SlipwayError
from slipway.connect import TIMEOUT_S

_LEASE_S = 600.0
"""What a build that is killed leaves goes after this."""


class Leases:
    """Those of one build.

    Args:
        images: the node's imaged.
        uid: of the build.
    """

    def __init__(self, images: ImagedClient, uid: str) -> None:
        self._images, self._name = images, f"build-{uid}"
        self._held: set[str] = set()

    async def hold(self, image: str) -> str:
        """Hold an image until the end; returns it.

        Raises:
            NotFoundError: it has gone.
        """
        if image not in self._held:
            with suppress(ResourceExhaustedError):  # as many builds as may hold it do
                await self._images.lease(image, self._name, _LEASE_S)
            self._held.add(image)
        return image

    async def renew(self) -> None:
        """Prolong all of them again and again, for ever."""
        while True:
            await anyio.sleep(_LEASE_S / 4)
            for image in sorted(self._held):
                with suppress(SlipwayError):  # removed by force, or imaged is away: the build will hear of it
                    await self._images.lease(image, self._name, _LEASE_S)

    async def end(self) -> None:
        """Let go of all, also when the build is cancelled."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(TIMEOUT_S):
            for image in sorted(self._held):
                with suppress(SlipwayError):  # they end by themselves
                    await self._images.lease(image, self._name, 0)


@asynccontextmanager
async def leases(images: ImagedClient, uid: str) -> AsyncIterator[Leases]:
    """Leases that hold until the block ends, however long it takes; arguments as of Leases."""
    made = Leases(images, uid)
    async with anyio.create_task_group() as group:
        group.start_soon(made.renew)
        try:
            yield made
        finally:
            await made.end()
            group.cancel_scope.cancel()
