"""Images that steps made: found again by their keys, or committed.

A step that changes files is cached under a key: that of what it stands on, what it says, and what it reads. The
image that it made is named after the key, so that it is found again, and goes with the images that nobody uses.
"""

import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import anyio

from common.api.images.v1 import images_pb2 as pb
from common.buildcache import REPOSITORY
from common.clients.imaged import ImagedClient
from common.errors import InvalidArgumentError, NotFoundError
from slipway.building.leases import Leases
from slipway.building.progress import Step
from slipway.building.refusal import refuse
from slipway.building.state import State, Wish
from slipway.building.worker import Job, Worker
from slipway.commands.changes import MADE


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a step's work."""

    key: str
    """Of what was read, which may have changed since the cache was asked."""
    ignore: list[str] = field(default_factory=list)
    """What was only mounted on."""


class Results:
    """The results of a build's steps.

    Args:
        images: the node's imaged.
        leases: hold the results.
        worker: makes the containers.
        wish: what is wanted.
    """

    def __init__(self, images: ImagedClient, leases: Leases, worker: Worker, wish: Wish) -> None:
        self._images, self._leases, self._worker, self._wish = images, leases, worker, wish
        self._room = anyio.CapacityLimiter(max(2, os.cpu_count() or 2))
        """For steps that work at the same time."""

    async def change(
        self,
        state: State,
        new: str,
        text: str,
        job: Callable[[AsyncExitStack], Awaitable[Job]],
        work: Callable[[str], Awaitable[Done]],
        shown: Step,
        changes: tuple[str, ...] = (),
    ) -> None:
        """Do what changes files, unless the cache has it as `new`; it is kept by the key that `work` returns."""
        image = await self._cached(new)
        shown.cached = bool(image)
        if not image:
            await self.flush(state)
            async with self._room, AsyncExitStack() as stack:
                wanted = replace(await job(stack), image=state.image)
                container_id = await stack.enter_async_context(self._worker.container(wanted))
                done = await work(container_id)
                new = done.key
                wish = pb.CommitRequest(
                    snapshot=container_id,
                    ignore=[*MADE, *done.ignore],
                    changes=changes,
                    created_by=text,
                )
                image = await self._commit(state.image, new, wish)
        state.image, state.key, state.pending = image, new, {}

    async def _cached(self, wanted: str) -> str:
        if not self._wish.use_cache:
            return ""
        try:
            return await self._leases.hold((await self._images.get(f"{REPOSITORY}:{wanted}", used=True)).id)
        except NotFoundError:
            return ""

    async def flush(self, state: State) -> None:
        """Give the image the changes of the config that it has not yet."""
        if not state.pending:
            return
        image = await self._cached(state.key)
        if not image:
            try:
                image = await self._commit(
                    state.image, state.key, pb.CommitRequest(steps=list(state.pending))
                )
            except InvalidArgumentError as exc:
                for text, step in state.pending.items():
                    if repr(text[:200]) in exc.message:
                        refuse(step, exc)
                raise
        state.image, state.pending = image, {}

    async def _commit(self, base: str, name: str, wish: pb.CommitRequest) -> str:
        wish.image, wish.name = base, f"{REPOSITORY}:{name}"
        wish.created_ns = (self._wish.epoch_s or 0) * 10**9
        wish.clamp_times = self._wish.epoch_s is not None
        return await self._leases.hold((await self._images.commit(wish)).id)


async def plain(_: AsyncExitStack) -> Job:
    """A container that is not started."""
    return Job("")
