"""Root filesystems from snapshotd."""

from common.api.snapshots.v1 import snapshots_pb2 as pb
from common.clients.snapshotd import SnapshotdClient
from common.sys.userns import IdMappings
from runtimed.ports import Diff, SnapshotUse


class SnapshotdSnapshots:
    """runtimed.ports.Snapshots over gRPC."""

    def __init__(self, client: SnapshotdClient) -> None:
        self._client = client

    async def prepare(
        self,
        key: str,
        diff_ids: list[str],
        snapshotter: str,
        *,
        readonly: bool = False,
        ids: IdMappings | None = None,
        diff: Diff | None = None,
    ) -> str:
        given = pb.Diff(path=diff.path, digest=diff.digest) if diff else None
        made = await self._client.prepare(key, diff_ids, snapshotter, readonly=readonly, ids=ids, diff=given)
        return made.path

    async def remove(self, key: str) -> None:
        await self._client.remove(key)

    async def keys(self) -> list[str]:
        return [snapshot.key for snapshot in await self._client.list()]

    async def usage(self, keys: list[str]) -> tuple[str, dict[str, SnapshotUse]]:
        response = await self._client.usage(keys)
        return response.mountpoint, {
            u.key: SnapshotUse(used_bytes=u.used_bytes, used_inodes=u.used_inodes, at_ns=u.at_ns)
            for u in response.usages
        }
