"""gRPC in, service call, gRPC out."""

import base64
import binascii
from collections.abc import AsyncIterator, Collection
from typing import TYPE_CHECKING

from common.api.images.v1 import images_pb2 as pb
from common.api.images.v1 import images_pb2_grpc as rpc
from common.clock import now_ns
from common.errors import InvalidArgumentError
from imaged.collection import Collector, Rules
from imaged.committing import Commits, Wish
from imaged.loading import Loads
from imaged.manifest import platform_of
from imaged.ports import Credentials
from imaged.pull import Choice, LayerState
from imaged.record import ImageRecord
from imaged.saving import Saves
from imaged.service import Images, Progress
from imaged.transfer import BlobState, Transfer, Transfers

if TYPE_CHECKING:
    from typing import Any

    from grpc.aio import ServicerContext

    Context = ServicerContext[Any, Any]

_STATES = {
    LayerState.WAITING: pb.LAYER_STATE_WAITING,
    LayerState.FETCHING: pb.LAYER_STATE_FETCHING,
    LayerState.UNPACKING: pb.LAYER_STATE_UNPACKING,
    LayerState.DONE: pb.LAYER_STATE_DONE,
}

_BLOB_STATES = {
    BlobState.WAITING: pb.BLOB_STATE_WAITING,
    BlobState.FETCHING: pb.BLOB_STATE_FETCHING,
    BlobState.SENDING: pb.BLOB_STATE_SENDING,
    BlobState.SENT: pb.BLOB_STATE_SENT,
    BlobState.MOUNTED: pb.BLOB_STATE_MOUNTED,
    BlobState.THERE: pb.BLOB_STATE_THERE,
}


class ImagesServicer(rpc.ImagesServicer):
    """slipway.images.v1.Images."""

    def __init__(
        self,
        images: Images,
        loads: Loads,
        saves: Saves,
        transfers: Transfers,
        commits: Commits,
        collector: Collector,
        mountpoint: str,
        *,
        lazy: tuple[bool, Collection[str]] = (False, ()),
    ) -> None:
        self._images, self._loads, self._saves, self._transfers = images, loads, saves, transfers
        self._commits, self._collector = commits, collector
        self._mountpoint = mountpoint
        self._lazy, self._lazy_handlers = lazy

    async def Pull(self, request: pb.PullRequest, context: "Context") -> AsyncIterator[pb.PullProgress]:
        auth = credentials(request.auth)
        lazy = request.lazy or self._lazy or request.handler in self._lazy_handlers
        choice = _choice(request.platform, every=request.all_platforms)
        async for progress in self._images.pull(
            request.reference, auth, request.priority, lazy=lazy, choice=choice
        ):
            yield await self._progress(progress)

    async def CheckLogin(self, request: pb.CheckLoginRequest, context: "Context") -> pb.CheckLoginResponse:
        asked = await self._images.check_login(request.registry, credentials(request.auth))
        return pb.CheckLoginResponse(asked=asked)

    async def ListPulls(self, request: pb.ListPullsRequest, context: "Context") -> pb.ListPullsResponse:
        return pb.ListPullsResponse(pulls=[await self._progress(p) for p in self._images.pulls()])

    async def Get(self, request: pb.GetRequest, context: "Context") -> pb.Image:
        return await self._image(await self._images.get(request.reference, used=request.used))

    async def Lease(self, request: pb.LeaseRequest, context: "Context") -> pb.Image:
        return await self._image(await self._images.lease(request.reference, request.name, request.seconds))

    async def List(self, request: pb.ListRequest, context: "Context") -> pb.ListResponse:
        found = self._images.catalog.select(request.reference)
        return pb.ListResponse(images=[await self._row(record) for record in found])

    async def Tag(self, request: pb.TagRequest, context: "Context") -> pb.Image:
        return await self._image(await self._images.catalog.tag(request.source, request.target))

    async def Untag(self, request: pb.UntagRequest, context: "Context") -> pb.UntagResponse:
        found = await self._images.untag(request.reference, force=request.force, keep_last=request.keep_image)
        return pb.UntagResponse(untagged=found.names, removed_id=found.image.id if found.image else "")

    async def Remove(self, request: pb.RemoveRequest, context: "Context") -> pb.RemoveResponse:
        await self._images.remove(request.reference)
        return pb.RemoveResponse()

    async def Push(self, request: pb.PushRequest, context: "Context") -> AsyncIterator[pb.PushProgress]:
        auth = credentials(request.auth)
        choice = _choice(request.platform, every=request.all_platforms)
        async for transfer in self._transfers.push(request.reference, request.target, auth, choice):
            yield _transfer(transfer)

    async def Copy(self, request: pb.CopyRequest, context: "Context") -> AsyncIterator[pb.PushProgress]:
        source, target = credentials(request.source_auth), credentials(request.target_auth)
        async for transfer in self._transfers.copy(request.source, request.target, source, target):
            yield _transfer(transfer)

    async def MakeIndex(
        self, request: pb.MakeIndexRequest, context: "Context"
    ) -> AsyncIterator[pb.PushProgress]:
        sources = [(source.reference, credentials(source.auth)) for source in request.sources]
        async for transfer in self._transfers.index(request.target, sources, credentials(request.auth)):
            yield _transfer(transfer)

    async def Commit(self, request: pb.CommitRequest, context: "Context") -> AsyncIterator[pb.CommitProgress]:
        wish = Wish(
            snapshot=request.snapshot,
            image=request.image,
            name=request.name,
            author=request.author,
            message=request.message,
            created_by=request.created_by,
            changes=tuple(request.changes),
            ignore=tuple(request.ignore),
            created_ns=request.created_ns or now_ns(),
            steps=tuple(request.steps),
            clamp_times=request.clamp_times,
            dry_run=request.dry_run,
        )
        async for made in self._commits.commit(wish):
            yield pb.CommitProgress(image=await self._image(made) if made else None)

    async def Prune(self, request: pb.PruneRequest, context: "Context") -> pb.PruneResponse:
        rules = Rules(
            tagged=request.all,
            build_caches=request.build_caches,
            older_than_s=request.older_than_s,
            keep_last=request.keep_last,
            max_bytes=request.max_bytes,
        )
        verdicts = await self._collector.collect(rules, dry_run=request.dry_run)
        left = await self._collector.sweep(rules.older_than_s, dry_run=request.dry_run)
        return pb.PruneResponse(
            leftovers=pb.Leftovers(
                blobs=left.blobs,
                blob_bytes=left.blob_bytes,
                layers=left.layers,
                layer_bytes=left.layer_bytes,
            ),
            verdicts=[
                pb.Verdict(
                    id=verdict.image.id,
                    names=verdict.image.names,
                    size_bytes=verdict.image.size_bytes,
                    pulled_at_ns=verdict.image.pulled_at_ns,
                    used_at_ns=verdict.image.last_used_ns,
                    goes=verdict.goes,
                    why=verdict.why,
                    frees_blob_bytes=verdict.frees_blob_bytes,
                    frees_layer_bytes=verdict.frees_layer_bytes,
                )
                for verdict in verdicts
            ],
        )

    async def Save(self, request: pb.SaveRequest, context: "Context") -> AsyncIterator[pb.Chunk]:
        choice = _choice(request.platform, every=request.all_platforms)
        async for piece in self._saves.save(list(request.references), credentials(request.auth), choice):
            yield pb.Chunk(piece=piece)

    async def Load(self, requests: AsyncIterator[pb.LoadRequest], context: "Context") -> pb.LoadResponse:
        first = await anext(requests, pb.LoadRequest())

        async def pieces() -> AsyncIterator[bytes]:
            yield first.piece
            async for request in requests:
                yield request.piece

        options = first.options
        loaded = await self._loads.load(
            pieces(), name=options.name, replace=options.replace, platform=options.platform
        )
        return pb.LoadResponse(
            images=[pb.LoadedImage(image=await self._row(record), names=names) for record, names in loaded]
        )

    async def Usage(self, request: pb.UsageRequest, context: "Context") -> pb.UsageResponse:
        used_bytes, used_inodes = await self._images.usage()
        return pb.UsageResponse(
            used_bytes=used_bytes, used_inodes=used_inodes, mountpoint=self._mountpoint, at_ns=now_ns()
        )

    async def _progress(self, progress: Progress) -> pb.PullProgress:
        layers = [
            pb.LayerProgress(
                digest=status.digest,
                size_bytes=status.size_bytes,
                fetched_bytes=status.fetched_bytes,
                state=_STATES[status.state],
            )
            for status in progress.layers
        ]
        image = await self._image(progress.image) if progress.image else None
        return pb.PullProgress(
            reference=progress.reference, layers=layers, image=image, left_s=progress.left_s
        )

    async def _image(self, record: ImageRecord) -> pb.Image:
        image = await self._row(record)
        image.config = await self._images.configs.read(record)
        return image

    async def _row(self, record: ImageRecord) -> pb.Image:
        """An image without its config: many of these fit into a message."""
        facts = await self._images.configs.facts(record)
        at_ns = now_ns()
        leases = [pb.Lease(name=n, until_ns=u) for n, u in sorted(record.leases.items()) if u > at_ns]
        return pb.Image(
            id=record.id,
            repo_tags=record.repo_tags,
            repo_digests=record.repo_digests,
            size_bytes=record.size_bytes,
            diff_ids=record.diff_ids,
            manifest_digest=record.manifest_digest,
            pinned=bool(self._images.pin_of(record) or leases),
            pulled_at_ns=record.pulled_at_ns,
            layers=[
                pb.LayerBlob(digest=layer.digest, size_bytes=layer.size_bytes, media_type=layer.media_type)
                for layer in record.layers
            ],
            used_at_ns=record.last_used_ns,
            artifact_type=record.artifact_type,
            leases=leases,
            coming=self._images.coming(record),
            damage=self._images.damage(record),
            user=facts.user,
            created=facts.created,
            platform=record.platform,
        )


def _transfer(transfer: Transfer) -> pb.PushProgress:
    blobs = [
        pb.BlobProgress(
            digest=status.blob.digest,
            size_bytes=status.blob.size,
            sent_bytes=status.sent_bytes,
            state=_BLOB_STATES[status.state],
        )
        for status in transfer.blobs
    ]
    return pb.PushProgress(
        reference=str(transfer.target), blobs=blobs, digest=transfer.digest, left_out=transfer.left_out
    )


def _choice(platform: str, *, every: bool) -> Choice:
    return Choice(str(platform_of(platform)) if platform else "", every)


def credentials(auth: pb.Auth) -> Credentials:
    """CRI's AuthConfig; `auth` stands for user name and password.

    Raises:
        InvalidArgumentError: `auth` is not base64 of user:password, or a token fits no header. No value is told.
    """
    if not (auth.registry_token.isascii() and auth.registry_token.isprintable()):
        raise InvalidArgumentError("auth.registry_token has other than printable ASCII characters")
    username, password = auth.username, auth.password
    if auth.auth and not username:
        try:
            pair = base64.b64decode(auth.auth, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as exc:
            raise InvalidArgumentError("auth.auth is no base64 of user:password") from exc
        username, colon, password = pair.partition(":")
        if not colon:
            raise InvalidArgumentError("auth.auth is no base64 of user:password")
        # docker pads with zero bytes
        password = password.strip("\x00")
    return Credentials(username, password, auth.identity_token, auth.registry_token, auth.server_address)
