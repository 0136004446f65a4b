"""snapshotd: wires settings, stores, snapshotters and use cases, and serves."""

import sys
from functools import partial
from pathlib import Path

import grpc

from common.api.snapshots.v1 import snapshots_pb2_grpc as rpc
from common.events.relay import OutboxRelay
from common.life import Life, run
from common.places import RANGES_SOCKET, own_dirs, socket_path
from common.records import RecordStore
from common.records.redis import connect
from common.settings import load
from snapshotd import meters
from snapshotd.adapters.erofs import ErofsImages
from snapshotd.adapters.helper import HelperUnpacker
from snapshotd.adapters.lazymounts import LazyMounts
from snapshotd.adapters.mounts import MountPoints
from snapshotd.adapters.native import NativeSnapshotter
from snapshotd.adapters.nursery import Nursery
from snapshotd.adapters.overlay import OverlaySnapshotter
from snapshotd.adapters.trash import Trash
from snapshotd.differences import Differences
from snapshotd.disk import DiskSync
from snapshotd.layers import Layers
from snapshotd.ports import Snapshotter
from snapshotd.quotas import Quotas
from snapshotd.reconcile import Reconciler
from snapshotd.records import EROFS, NATIVE, OVERLAYFS, LayerRecord, SnapshotRecord
from snapshotd.roots import Roots
from snapshotd.service import Snapshots
from snapshotd.servicer import SnapshotsServicer
from snapshotd.settings import Settings
from snapshotd.store import Places
from snapshotd.unpacking import Bounds, Unpacking
from snapshotd.usage import UsageCache

NAME = "snapshotd"


async def serve(settings: Settings, life: Life) -> None:
    """Load what is here, mend it, and answer until told to stop."""
    run_dir, root = own_dirs(settings, NAME)
    places = Places(root)
    layer_records, snapshot_records = await _records(settings, places)
    quotas = Quotas(root, settings.writable_max_bytes)
    quotas.check()
    trash = Trash(places.trash, life.task_group)
    await trash.empty()
    nursery = Nursery(run_dir)
    life.start_once_serving(nursery.run, "nursery")
    mounts = MountPoints(run_dir / "mounts", run_dir.parent)
    # nobody on the host but root may run what a layer brings
    image_mounts = MountPoints(run_dir / "layers", run_dir.parent, mode=0o700)
    images = ErofsImages(settings.unpack_timeout_s)
    lazies = _lazies(settings, run_dir)
    roots = Roots(places, image_mounts, images, lazies)
    unpacking = _unpacking(settings, places, nursery, trash, images)
    layers = Layers(
        records=layer_records,
        places=places,
        unpacking=unpacking,
        trash=trash,
        roots=roots,
        task_group=life.task_group,
    )
    snapshotters = _snapshotters(roots, places.empty)
    snapshots = Snapshots(
        records=snapshot_records,
        layers=layers,
        unpacking=unpacking,
        places=places,
        mounts=mounts,
        snapshotters=snapshotters,
        default=settings.snapshotter,
        trash=trash,
        usage_interval_s=settings.usage_interval_s,
        quotas=quotas,
    )
    await Reconciler(
        layer_records, snapshot_records, layers, snapshots, places, mounts, image_mounts, lazies, trash
    ).run()
    meters.LAYERS.set_function(lambda: len(layer_records.all()))
    meters.SNAPSHOTS.set_function(lambda: len(snapshot_records.all()))
    life.start((await OutboxRelay.of(settings, NAME)).run, name="relay")
    life.start(layer_records.guard, name="guard of layers")
    life.start(snapshot_records.guard, name="guard of snapshots")
    unfinished = UsageCache(settings.usage_interval_s, unpacking.unfinished)
    life.start(snapshots.cache.run, name="usage")
    life.start(unfinished.run, name="usage of the unfinished")
    life.start(snapshots.watch_bounds, settings.usage_interval_s, name="bounds")
    differences = Differences(
        snapshot_records, layers, places, roots, snapshotters, settings.layer_max_entries
    )
    servicer = SnapshotsServicer(layers, snapshots, differences, unfinished, root)

    def register(server: grpc.aio.Server) -> None:
        rpc.add_SnapshotsServicer_to_server(servicer, server)

    await life.serve(register, socket_path(settings, NAME))


async def _records(
    settings: Settings, places: Places
) -> tuple[RecordStore[LayerRecord], RecordStore[SnapshotRecord]]:
    """The records of layers and of snapshots, loaded."""
    redis = await connect(settings.redis_url)
    bound = settings.outbox_max_bytes
    layers = RecordStore(
        redis,
        LayerRecord,
        node=settings.node,
        owner=NAME,
        kind="layer",
        directory=places.layers,
        outbox_max_bytes=bound,
    )
    snapshots = RecordStore(
        redis, SnapshotRecord, node=settings.node, owner=NAME, kind="snapshot", outbox_max_bytes=bound
    )
    await layers.load()
    await snapshots.load()
    return layers, snapshots


def _unpacking(
    settings: Settings, places: Places, nursery: Nursery, trash: Trash, images: ErofsImages
) -> Unpacking:
    return Unpacking(
        places=places,
        unpacker=HelperUnpacker(nursery, settings.unpack_timeout_s),
        trash=trash,
        images=images,
        only_images=settings.snapshotter == EROFS,
        sync=DiskSync(places.layers, enabled=settings.sync),
        bounds=Bounds(settings.layer_max_entries, settings.layer_max_bytes, settings.max_unpacks),
    )


def _lazies(settings: Settings, run_dir: Path) -> LazyMounts:
    return LazyMounts(
        MountPoints(run_dir / "lazy", run_dir.parent, mode=0o700),
        run_dir.parent / RANGES_SOCKET,
        read_timeout_s=settings.lazy_read_timeout_s,
        max_entries=settings.layer_max_entries,
        max_bytes=settings.layer_max_bytes,
        cgroup=settings.lazy_cgroup,
    )


def _snapshotters(roots: Roots, empty: Path) -> dict[str, Snapshotter]:
    return {
        OVERLAYFS: OverlaySnapshotter(roots.tree, empty),
        NATIVE: NativeSnapshotter(roots.tree),
        EROFS: OverlaySnapshotter(roots.image, empty),
    }


def main() -> None:
    settings = load(Settings, NAME, sys.argv[1:])
    run(NAME, settings, partial(serve, settings))
