"""Client of snapshotd."""

from collections.abc import AsyncIterator, Sequence

from common.api.snapshots.v1 import snapshots_pb2 as pb
from common.api.snapshots.v1 import snapshots_pb2_grpc as rpc
from common.rpc.channel import channel
from common.sys.userns import IdMappings

APPLY_TIMEOUT_S = 2 * 3600.0
"""Such a call ends by snapshotd's own bound; this only bounds one that nobody looks after."""


class SnapshotdClient:
    """Layers and snapshots, over snapshotd's socket. Every method raises common.errors.

    Args:
        socket_path: snapshotd's socket.
        timeout_s: deadline of every call but `apply_layer`, `changes` and `write_diff`, which go through a whole layer.
    """

    def __init__(self, socket_path: str, timeout_s: float = 120) -> None:
        self._channel = channel(socket_path)
        self._stub = rpc.SnapshotsStub(self._channel)
        self._timeout_s = timeout_s

    async def apply_layer(
        self,
        *,
        diff_id: str,
        blob_path: str,
        digest: str = "",
        media_type: str = "",
        size_bytes: int = 0,
        timeout_s: float = APPLY_TIMEOUT_S,
    ) -> pb.Layer:
        """Unpack a blob as the layer with this diff ID; at once when it is there."""
        request = pb.ApplyLayerRequest(
            diff_id=diff_id, digest=digest, blob_path=blob_path, media_type=media_type, size_bytes=size_bytes
        )
        return await self._stub.ApplyLayer(request, timeout=timeout_s)

    async def serve_layer(
        self,
        *,
        diff_id: str,
        digest: str,
        blob_path: str,
        media_type: str,
        size_bytes: int,
        toc_offset: int,
        toc_bytes: int,
        toc_digest: str,
    ) -> pb.ServedLayer:
        """Have a layer served while its bytes come; see the proto."""
        request = pb.ServeLayerRequest(
            diff_id=diff_id,
            digest=digest,
            blob_path=blob_path,
            media_type=media_type,
            size_bytes=size_bytes,
            toc_offset=toc_offset,
            toc_bytes=toc_bytes,
            toc_digest=toc_digest,
        )
        return await self._stub.ServeLayer(request, timeout=self._timeout_s)

    async def list_layers(self, diff_ids: Sequence[str] = ()) -> list[pb.Layer]:
        """The layers held out of those named; all when none is named."""
        request = pb.ListLayersRequest(diff_ids=diff_ids)
        return list((await self._stub.ListLayers(request, timeout=self._timeout_s)).layers)

    async def remove_layers(self, diff_ids: Sequence[str]) -> list[str]:
        """Remove layers; returns those that stay until the last snapshot on them goes."""
        request = pb.RemoveLayersRequest(diff_ids=diff_ids)
        return list((await self._stub.RemoveLayers(request, timeout=self._timeout_s)).kept)

    async def prepare(
        self,
        key: str,
        diff_ids: Sequence[str],
        snapshotter: str = "",
        *,
        readonly: bool = False,
        ids: IdMappings | None = None,
        diff: pb.Diff | None = None,
    ) -> pb.Snapshot:
        """Make and mount a snapshot over layers, bottom first; the same again returns the first one.

        `ids` are those of the user namespace that will use it, `diff` is what it begins with above the layers.
        """
        request = pb.PrepareRequest(
            key=key, diff_ids=diff_ids, snapshotter=snapshotter, readonly=readonly, diff=diff
        )
        if ids:
            request.ids.CopyFrom(
                pb.IdMappings(
                    uids=pb.IdMapping(**ids.uids._asdict()), gids=pb.IdMapping(**ids.gids._asdict())
                )
            )
        return await self._stub.Prepare(request, timeout=self._timeout_s)

    async def get(self, key: str) -> pb.Snapshot:
        """One snapshot; NotFoundError when absent."""
        return await self._stub.Get(pb.GetRequest(key=key), timeout=self._timeout_s)

    async def list(self) -> "list[pb.Snapshot]":
        """All snapshots."""
        return [*(await self._stub.List(pb.ListRequest(), timeout=self._timeout_s)).snapshots]

    async def remove(self, key: str) -> None:
        """Unmount and remove a snapshot; idempotent."""
        await self._stub.Remove(pb.RemoveRequest(key=key), timeout=self._timeout_s)

    async def changes(self, key: str, ignore: Sequence[str] = ()) -> AsyncIterator[pb.Change]:
        """What a snapshot changed of its layers; see the proto for `ignore`."""
        request = pb.ChangesRequest(key=key, ignore=ignore)
        async for chunk in self._stub.Changes(request, timeout=APPLY_TIMEOUT_S):
            for change in chunk.changes:
                yield change

    async def write_diff(
        self, key: str, path: str, ignore: Sequence[str] = (), *, max_mtime_s: int = 0
    ) -> pb.WrittenDiff:
        """Write what a snapshot changed as an uncompressed layer into a new file; see the proto for the rest."""
        request = pb.WriteDiffRequest(key=key, path=path, ignore=ignore, max_mtime_s=max_mtime_s)
        return await self._stub.WriteDiff(request, timeout=APPLY_TIMEOUT_S)

    async def usage(self, keys: Sequence[str]) -> pb.UsageResponse:
        """What the writable directories hold; unknown keys are left out."""
        return await self._stub.Usage(pb.UsageRequest(keys=keys), timeout=self._timeout_s)

    async def fs_info(self) -> pb.FsInfoResponse:
        """Layers and snapshots together."""
        return await self._stub.FsInfo(pb.FsInfoRequest(), timeout=self._timeout_s)

    async def close(self) -> None:
        await self._channel.close()
