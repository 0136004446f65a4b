"""slipway.snapshots.v1: messages in, use cases, messages out."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from common.api.snapshots.v1 import snapshots_pb2 as pb
from common.api.snapshots.v1 import snapshots_pb2_grpc as rpc
from common.digest import Digest
from common.sys.userns import IdMapping, IdMappings
from snapshotd.diff.changes import Change, Kind
from snapshotd.differences import Differences
from snapshotd.layers import Layers
from snapshotd.records import LayerRecord, LazyForm, SnapshotRecord
from snapshotd.service import Snapshots
from snapshotd.unpacking import Blob
from snapshotd.usage import UsageCache

if TYPE_CHECKING:
    from typing import Any

    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]

_CHUNK = 1000
_KINDS = {
    Kind.ADDED: pb.CHANGE_KIND_ADDED,
    Kind.CHANGED: pb.CHANGE_KIND_CHANGED,
    Kind.DELETED: pb.CHANGE_KIND_DELETED,
}


class SnapshotsServicer(rpc.SnapshotsServicer):
    """Serves layers and snapshots.

    Args:
        layers: use cases of layers.
        snapshots: use cases of snapshots.
        differences: use cases of what they changed.
        mountpoint: the directory that holds both.
    """

    def __init__(
        self,
        layers: Layers,
        snapshots: Snapshots,
        differences: Differences,
        unfinished: UsageCache,
        mountpoint: Path,
    ) -> None:
        self._layers, self._snapshots, self._mountpoint = layers, snapshots, str(mountpoint)
        self._differences, self._unfinished = differences, unfinished

    async def ApplyLayer(self, request: pb.ApplyLayerRequest, context: "Context") -> pb.Layer:
        diff_id = Digest.parse(request.diff_id)
        blob = Blob(diff_id, request.digest, request.blob_path, request.media_type)
        return _layer(await self._layers.apply(blob))

    async def ServeLayer(self, request: pb.ServeLayerRequest, context: "Context") -> pb.ServedLayer:
        form = LazyForm(
            digest=str(Digest.parse(request.digest)),
            blob_path=request.blob_path,
            size_bytes=request.size_bytes,
            toc_offset=request.toc_offset,
            toc_digest=str(Digest.parse(request.toc_digest)),
            toc_bytes=request.toc_bytes,
            media_type=request.media_type,
        )
        record, prefetch_bytes = await self._layers.serve(Digest.parse(request.diff_id), form)
        return pb.ServedLayer(layer=_layer(record), prefetch_bytes=prefetch_bytes)

    async def ListLayers(self, request: pb.ListLayersRequest, context: "Context") -> pb.ListLayersResponse:
        return pb.ListLayersResponse(layers=map(_layer, self._layers.held(request.diff_ids)))

    async def RemoveLayers(
        self, request: pb.RemoveLayersRequest, context: "Context"
    ) -> pb.RemoveLayersResponse:
        return pb.RemoveLayersResponse(kept=await self._layers.remove(request.diff_ids))

    async def Prepare(self, request: pb.PrepareRequest, context: "Context") -> pb.Snapshot:
        record = await self._snapshots.prepare(
            request.key,
            list(request.diff_ids),
            request.snapshotter,
            readonly=request.readonly,
            ids=_ids(request),
            diff=_diff(request),
        )
        return _snapshot(record)

    async def Get(self, request: pb.GetRequest, context: "Context") -> pb.Snapshot:
        return _snapshot(self._snapshots.get(request.key))

    async def List(self, request: pb.ListRequest, context: "Context") -> pb.ListResponse:
        return pb.ListResponse(snapshots=map(_snapshot, self._snapshots.all()))

    async def Remove(self, request: pb.RemoveRequest, context: "Context") -> pb.RemoveResponse:
        await self._snapshots.remove(request.key)
        return pb.RemoveResponse()

    async def Changes(self, request: pb.ChangesRequest, context: "Context") -> AsyncIterator[pb.ChangesChunk]:
        found = await self._differences.changes(request.key, request.ignore)
        for start in range(0, len(found), _CHUNK):
            yield pb.ChangesChunk(changes=map(_change, found[start : start + _CHUNK]))

    async def WriteDiff(self, request: pb.WriteDiffRequest, context: "Context") -> pb.WrittenDiff:
        written = await self._differences.write(
            request.key, request.path, request.ignore, max_mtime_s=request.max_mtime_s
        )
        return pb.WrittenDiff(**written._asdict())

    async def Usage(self, request: pb.UsageRequest, context: "Context") -> pb.UsageResponse:
        uses = await self._snapshots.usage(request.keys)
        return pb.UsageResponse(
            mountpoint=self._mountpoint,
            usages=[
                pb.SnapshotUsage(
                    key=key, used_bytes=use.used_bytes, used_inodes=use.used_inodes, at_ns=use.at_ns
                )
                for key, use in uses.items()
            ],
        )

    async def FsInfo(self, request: pb.FsInfoRequest, context: "Context") -> pb.FsInfoResponse:
        layers = self._layers.held(())
        use, unfinished = self._snapshots.cache.total(), self._unfinished.total()
        return pb.FsInfoResponse(
            mountpoint=self._mountpoint,
            layer_bytes=sum(layer.size_bytes for layer in layers) + unfinished.used_bytes,
            layer_inodes=sum(layer.inodes for layer in layers) + unfinished.used_inodes,
            snapshot_bytes=use.used_bytes,
            snapshot_inodes=use.used_inodes,
            at_ns=min(use.at_ns, unfinished.at_ns),
        )


def _ids(request: pb.PrepareRequest) -> IdMappings | None:
    if not request.HasField("ids"):
        return None
    uids, gids = request.ids.uids, request.ids.gids
    return IdMappings(
        IdMapping(uids.container_id, uids.host_id, uids.size),
        IdMapping(gids.container_id, gids.host_id, gids.size),
    )


def _diff(request: pb.PrepareRequest) -> Blob | None:
    if not request.HasField("diff"):
        return None
    given = request.diff
    return Blob(Digest.parse(given.digest), given.digest, given.path, media_type="")


def _change(change: Change) -> pb.Change:
    return pb.Change(path=os.fsencode(f"/{change.path}"), kind=_KINDS[change.kind])


def _layer(record: LayerRecord) -> pb.Layer:
    return pb.Layer(
        diff_id=record.diff_id,
        size_bytes=record.size_bytes,
        inodes=record.inodes,
        coming=record.lazy is not None,
    )


def _snapshot(record: SnapshotRecord) -> pb.Snapshot:
    return pb.Snapshot(
        key=record.id,
        diff_ids=record.diff_ids,
        snapshotter=record.snapshotter,
        readonly=record.readonly,
        path=record.path,
        created_at_ns=record.created_at_ns,
    )
