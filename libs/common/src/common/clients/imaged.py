"""Client of imaged."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import anyio

from common.api.images.v1 import images_pb2 as pb
from common.api.images.v1 import images_pb2_grpc as rpc
from common.errors import UnavailableError
from common.rpc.channel import channel

MOVING_S = 6 * 3600.0
"""What moves an image ends by its own stall rules; this only bounds a call that nobody looks after."""

MAX_TRIES = 3
RETRY_WAIT_S = 0.2


class ImagedClient:
    """Images by name, over imaged's socket. Every method raises common.errors.

    Args:
        socket_path: imaged's socket.
        timeout_s: deadline of every call that moves no image.
    """

    def __init__(self, socket_path: str, timeout_s: float = 120) -> None:
        self._channel = channel(socket_path)
        self._stub = rpc.ImagesStub(self._channel)
        self._timeout_s = timeout_s

    async def pull(
        self,
        reference: str,
        auth: pb.Auth | None = None,
        *,
        priority: int = 0,
        lazy: bool = False,
        handler: str = "",
        platform: str = "",
        all_platforms: bool = False,
    ) -> AsyncIterator[pb.PullProgress]:
        """Pull an image and follow it; the last message carries it. Leaving early does not stop the pull."""
        request = pb.PullRequest(
            reference=reference,
            auth=auth,
            priority=priority,
            lazy=lazy,
            handler=handler,
            platform=platform,
            all_platforms=all_platforms,
        )
        for tries_left in reversed(range(MAX_TRIES)):
            try:
                async for progress in self._stub.Pull(request, timeout=MOVING_S):
                    yield progress
            except UnavailableError:
                # imaged went away in between; a pull may be asked for again, and goes on where it was
                if not tries_left:
                    raise
                await anyio.sleep(RETRY_WAIT_S)
            else:
                return

    async def pulled(self, reference: str) -> pb.Image:
        """Pull an image and wait for it."""
        image = pb.Image()
        async for progress in self.pull(reference):
            if progress.HasField("image"):
                image = progress.image
        return image

    async def check_login(self, registry: str, auth: pb.Auth) -> bool:
        """Ask a registry whether it takes a login; False when it asks nobody. PermissionDeniedError when it does not."""
        request = pb.CheckLoginRequest(registry=registry, auth=auth)
        return (await self._stub.CheckLogin(request, timeout=self._timeout_s)).asked

    async def pulls(self) -> list[pb.PullProgress]:
        """The pulls that run now."""
        return list((await self._stub.ListPulls(pb.ListPullsRequest(), timeout=self._timeout_s)).pulls)

    async def get(self, reference: str, *, used: bool = False) -> pb.Image:
        """One image by tag, digest, id or id prefix, which is about to be used or not; NotFoundError when absent."""
        request = pb.GetRequest(reference=reference, used=used)
        return await self._stub.Get(request, timeout=self._timeout_s)

    async def lease(self, reference: str, name: str, seconds: float) -> pb.Image:
        """Hold an image against collection for a time from now; 0 ends the lease."""
        request = pb.LeaseRequest(reference=reference, name=name, seconds=seconds)
        return await self._stub.Lease(request, timeout=self._timeout_s)

    async def list(self, reference: str = "") -> list[pb.Image]:
        """All images, or the one with this name."""
        response = await self._stub.List(pb.ListRequest(reference=reference), timeout=self._timeout_s)
        return list(response.images)

    async def remove(self, reference: str) -> None:
        """Remove an image with all its names; idempotent."""
        await self._stub.Remove(pb.RemoveRequest(reference=reference), timeout=self._timeout_s)

    async def tag(self, source: str, target: str) -> pb.Image:
        """Give an image one more name, which leaves the image that had it."""
        return await self._stub.Tag(pb.TagRequest(source=source, target=target), timeout=self._timeout_s)

    async def untag(
        self, reference: str, *, force: bool = False, keep_image: bool = False
    ) -> pb.UntagResponse:
        """Take a name away, and the image with its last one; FailedPreconditionError when it needs `force`."""
        request = pb.UntagRequest(reference=reference, force=force, keep_image=keep_image)
        return await self._stub.Untag(request, timeout=self._timeout_s)

    async def push(
        self,
        reference: str,
        target: str = "",
        auth: pb.Auth | None = None,
        *,
        platform: str = "",
        all_platforms: bool = False,
    ) -> AsyncIterator[pb.PushProgress]:
        """Push an image and follow it; leaving early stops the push."""
        request = pb.PushRequest(
            reference=reference, target=target, auth=auth, platform=platform, all_platforms=all_platforms
        )
        async for progress in self._stub.Push(request, timeout=MOVING_S):
            yield progress

    async def copy(
        self,
        source: str,
        target: str,
        source_auth: pb.Auth | None = None,
        target_auth: pb.Auth | None = None,
    ) -> AsyncIterator[pb.PushProgress]:
        """Copy an image between registries and follow it; leaving early stops the copy."""
        request = pb.CopyRequest(
            source=source, target=target, source_auth=source_auth, target_auth=target_auth
        )
        async for progress in self._stub.Copy(request, timeout=MOVING_S):
            yield progress

    async def make_index(
        self,
        target: str,
        sources: "Sequence[tuple[str, pb.Auth | None]]",
        auth: pb.Auth | None = None,
    ) -> AsyncIterator[pb.PushProgress]:
        """Make one image of several of registries, and follow it; leaving early stops it."""
        found = [pb.IndexSource(reference=reference, auth=theirs) for reference, theirs in sources]
        request = pb.MakeIndexRequest(target=target, auth=auth, sources=found)
        async for progress in self._stub.MakeIndex(request, timeout=MOVING_S):
            yield progress

    async def commit(
        self,
        request: pb.CommitRequest,
        was_read: Callable[[], Awaitable[None]] | None = None,
    ) -> pb.Image:
        """Make an image of what a container changed; AbortedError when it wrote meanwhile.

        Args:
            request: what is wanted.
            was_read: called once the container may write again.
        """
        image = pb.Image()
        async for progress in self._stub.Commit(request, timeout=MOVING_S):
            if progress.HasField("image"):
                image = progress.image
            elif was_read:
                await was_read()
        return image

    async def prune(self, request: pb.PruneRequest) -> pb.PruneResponse:
        """Remove images by rules and what nobody needs, or only decide; a verdict for each image, the oldest first."""
        return await self._stub.Prune(request, timeout=self._timeout_s)

    async def save(
        self,
        references: Sequence[str],
        auth: pb.Auth | None = None,
        *,
        platform: str = "",
        all_platforms: bool = False,
    ) -> AsyncIterator[bytes]:
        """Images as one tar, piece by piece."""
        request = pb.SaveRequest(
            references=references, auth=auth, platform=platform, all_platforms=all_platforms
        )
        async for chunk in self._stub.Save(request, timeout=MOVING_S):
            yield chunk.piece

    async def load(
        self,
        pieces: AsyncIterator[bytes],
        *,
        name: str = "",
        replace: bool = False,
        platform: str = "",
    ) -> "Sequence[pb.LoadedImage]":
        """Take the images of a tar; AlreadyExistsError when a name is another image's, an OSError of the pieces as it is."""
        failed: list[OSError] = []

        async def requests() -> AsyncIterator[pb.LoadRequest]:
            yield pb.LoadRequest(options=pb.LoadOptions(name=name, replace=replace, platform=platform))
            try:
                async for piece in pieces:
                    yield pb.LoadRequest(piece=piece)
            except OSError as exc:
                failed.append(exc)
                raise

        try:
            return (await self._stub.Load(requests(), timeout=MOVING_S)).images
        except anyio.get_cancelled_exc_class():
            # gRPC cancels a call whose requests fail, and does not say why
            if failed:
                raise failed[0] from None
            raise

    async def usage(self) -> pb.UsageResponse:
        """Space that blobs take."""
        return await self._stub.Usage(pb.UsageRequest(), timeout=self._timeout_s)

    async def close(self) -> None:
        await self._channel.close()
