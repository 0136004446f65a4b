"""At start: records, directories and mounts are compared, and what differs is mended, with an event for each."""

from dataclasses import dataclass

import anyio.to_thread

from common.errors import SlipwayError
from common.events.schema import NodeRepaired
from common.observe.log import get_logger
from common.records import RecordStore
from snapshotd.layers import Layers
from snapshotd.ports import Bin, LeftLazyLayers, Mounts
from snapshotd.records import LayerRecord, SnapshotRecord
from snapshotd.service import Snapshots
from snapshotd.store import Places, read_copy

_log = get_logger("reconcile")


@dataclass
class Reconciler:
    """One pass over what a dead service, a reboot or a wiped Redis left behind."""

    layer_records: RecordStore[LayerRecord]
    snapshot_records: RecordStore[SnapshotRecord]
    layers: Layers
    snapshots: Snapshots
    places: Places
    mounts: Mounts
    image_mounts: Mounts
    lazy_mounts: LeftLazyLayers
    trash: Bin

    async def run(self) -> None:
        """Mend everything; must be over before the first request."""
        for mounts in (self.mounts, self.image_mounts, self.lazy_mounts):
            await anyio.to_thread.run_sync(mounts.share)
        await self._layers()
        await self._snapshot_directories()
        for record in self.snapshot_records.all():
            self.layers.hold(record.layers)
        await self._mounts()
        await self._image_mounts()
        await self._lazy_mounts()
        await self.layers.drop_orphans()

    async def _layers(self) -> None:
        known = {record.id for record in self.layer_records.all()}
        for path in await anyio.to_thread.run_sync(lambda: list(self.places.layers.iterdir())):
            if path.name not in known:
                await self.trash.throw(path)
                await self._repaired(path.name, "removed a layer directory without a record")
        for record in self.layer_records.all():
            if not await anyio.to_thread.run_sync(self.places.has, record):
                await self.layer_records.delete(record.id)
                await self.trash.throw(self.places.layer(record.id))
                await self._repaired(record.diff_id, "forgot a layer whose directory or image is gone")

    async def _snapshot_directories(self) -> None:
        known = {record.id for record in self.snapshot_records.all()}
        for path in await anyio.to_thread.run_sync(lambda: list(self.places.snapshots.iterdir())):
            if path.name in known:
                continue
            copy = await anyio.to_thread.run_sync(read_copy, path)
            if copy and copy.id == path.name:
                await self.snapshot_records.create(copy)
                await self._repaired(path.name, "restored a snapshot's record from its directory")
            else:
                # the mount would keep showing a directory that is being removed
                if path.name in self.mounts.mounted():
                    await anyio.to_thread.run_sync(self.mounts.unmount, path.name)
                await self.trash.throw(path)
                await self._repaired(path.name, "removed a snapshot directory without a record")
        for record in self.snapshot_records.all():
            if not await anyio.Path(self.places.snapshot(record.id)).is_dir():
                await self.snapshot_records.delete(record.id)
                await self._repaired(record.id, "forgot a snapshot whose directory is gone")

    async def _mounts(self) -> None:
        mounted = await anyio.to_thread.run_sync(self.mounts.mounted)
        known = {record.id: record for record in self.snapshot_records.all()}
        for key in await anyio.to_thread.run_sync(self.mounts.points):
            if key not in known:
                await anyio.to_thread.run_sync(self.mounts.unmount, key)
                await self._repaired(key, "unmounted what no snapshot is")
        for key, record in known.items():
            if key in mounted:
                continue
            try:
                await anyio.to_thread.run_sync(self.snapshots.remount, record)
                await self._repaired(key, "mounted a snapshot again")
            except (SlipwayError, OSError) as exc:
                # its owner decides: a snapshot without a mount can still be removed
                _log.error("snapshot.not_mounted", key=key, error=str(exc))
                await self._repaired(key, f"could not mount a snapshot: {exc}"[:500])

    async def _image_mounts(self) -> None:
        for layer_id in await anyio.to_thread.run_sync(self.image_mounts.points):
            if not self.layers.is_held(layer_id):
                await anyio.to_thread.run_sync(self.image_mounts.unmount, layer_id)
                await self._repaired(layer_id, "unmounted an image that no snapshot stands on")

    async def _lazy_mounts(self) -> None:
        coming = {record.id for record in self.layer_records.all() if record.lazy}
        for layer_id in await anyio.to_thread.run_sync(self.lazy_mounts.find):
            if layer_id not in coming and not self.layers.is_held(layer_id):
                await anyio.to_thread.run_sync(self.lazy_mounts.unmount, layer_id)
                await self._repaired(layer_id, "serves a layer no more that no snapshot stands on")

    async def _repaired(self, name: str, what: str) -> None:
        _log.warning("node.repaired", id=name, what=what)
        await self.snapshot_records.emit(NodeRepaired(id=name, service="snapshotd", what=what))
