"""imaged: wires settings, stores, registry and service, and serves."""

import sys
from functools import partial
from pathlib import Path

import anyio.to_thread
import grpc

from common.api.images.v1 import images_pb2_grpc as rpc
from common.clients.snapshotd import SnapshotdClient
from common.dockerconfig import check_readable
from common.events.relay import OutboxRelay
from common.life import Life, run
from common.observe.log import get_logger
from common.places import RANGES_SOCKET, own_dirs, socket_path
from common.records import RecordStore
from common.records.redis import connect
from common.rpc import ops
from common.settings import load
from imaged import meters, reconcile, trust
from imaged.adapters import keys
from imaged.adapters.content_local import LocalContent
from imaged.adapters.proxies import Proxies
from imaged.adapters.registry import HttpRegistry
from imaged.adapters.spool import Spools
from imaged.adapters.transport import Limits
from imaged.collection import Collector
from imaged.committing import Commits
from imaged.fetching.bandwidth import Bandwidth
from imaged.lazy.socket import RangeSocket
from imaged.lazy.store import LazyPlaces
from imaged.loading import Loads
from imaged.manifest import local_platform
from imaged.peers.neighbours import Neighbours
from imaged.peers.seal import Seals
from imaged.peers.server import BlobServer, listen
from imaged.record import ImageRecord
from imaged.saving import Saves
from imaged.service import Images
from imaged.servicer import ImagesServicer
from imaged.settings import Settings
from imaged.transfer import Transfers

LISTEN_AGAIN_S = 5.0
_log = get_logger("imaged")


async def serve(settings: Settings, life: Life) -> None:
    """Load what is here, mend it, and answer until told to stop."""
    policy = await _policy(settings)
    if settings.docker_config:
        await anyio.to_thread.run_sync(check_readable, Path(settings.docker_config))
    run_dir, root = own_dirs(settings, "imaged")
    content = LocalContent(root)
    await content.load()
    records = RecordStore(
        await connect(settings.redis_url),
        ImageRecord,
        node=settings.node,
        owner="imaged",
        kind="image",
        directory=root / "images",
        outbox_max_bytes=settings.outbox_max_bytes,
    )
    await records.load()
    await reconcile.repair(records, content)
    neighbours = await _neighbours(settings)
    registry = _registry(settings, neighbours)
    layers = SnapshotdClient(socket_path(settings, "snapshotd"))
    relay = await OutboxRelay.of(settings, "imaged")
    spools = Spools(content.ingests, settings.max_load_bytes)
    spools.clear()
    images = Images(
        records,
        content,
        registry,
        layers,
        task_group=life.task_group,
        workplace=spools,
        pinned=settings.pinned_images,
        short_names=settings.short_names,
        policy=policy,
        listened=lambda: relay.connected,
        lazy=LazyPlaces(root / "lazy", run_dir / "lazy", settings.lazy_min_bytes, settings.lazy_fill_delay_s),
    )
    collector = Collector(images.catalog, images.leases, content, layers, images.pin_of)
    servicer = _servicer(images, records, content, registry, layers, spools, collector, life, settings)
    meters.IMAGES.set_function(lambda: len(records.all()))
    meters.BLOB_BYTES.set_function(lambda: content.used_bytes)
    life.start(relay.run, name="relay")
    life.start(records.guard, name="guard of images")
    if neighbours:
        life.start(_give, settings, neighbours, images, name="peers")
    if images.lazies:
        ranges = RangeSocket(run_dir.parent / RANGES_SOCKET, settings.socket_mode, images.lazies)
        life.start(ranges.run, name="ranges")
        life.start(images.lazies.run, name="lazy")
    life.start(reconcile.sweep_for_ever, images.leases, collector, settings, name="sweep")

    def register(server: grpc.aio.Server) -> None:
        rpc.add_ImagesServicer_to_server(servicer, server)
        ops.register(server, images.operations)

    # the channel to snapshotd closes with the process: running pulls end by cancellation, not by its errors
    await life.serve(register, socket_path(settings, "imaged"))


def _registry(settings: Settings, neighbours: Neighbours | None) -> HttpRegistry:
    limits = Limits(
        settings.connect_timeout_s,
        settings.stall_timeout_s,
        settings.retry_wait_s,
        settings.max_retry_after_s,
    )
    return HttpRegistry(
        settings.certs_dir,
        settings.max_downloads,
        limits,
        docker_config=settings.docker_config,
        proxies=Proxies(settings.http_proxy, settings.https_proxy, settings.no_proxy),
        parallel_ranges=settings.parallel_ranges,
        bandwidth=Bandwidth(settings.max_bytes_per_s),
        neighbours=neighbours,
    )


async def _neighbours(settings: Settings) -> Neighbours | None:
    """The other nodes; what is wrong with the secret is known now."""
    if not settings.peer_address:
        return None
    seals = await anyio.to_thread.run_sync(Seals.read, Path(settings.peer_secret_file))
    return Neighbours(settings.node, settings.nats_url, seals, settings.peer_answer_s)


async def _give(settings: Settings, neighbours: Neighbours, images: Images) -> None:
    """Give blobs to the other nodes, for ever."""
    bandwidth = Bandwidth(settings.peer_max_bytes_per_s)
    server = BlobServer(
        settings.node, neighbours.seals, images.shared, bandwidth, settings.peer_max_connections
    )
    while True:
        try:
            listening = listen(settings.peer_address)
        except OSError as exc:
            # an address that is not there yet costs no pull
            _log.warning("peers.waiting", address=settings.peer_address, error=exc.strerror)
            await anyio.sleep(LISTEN_AGAIN_S)
            continue
        with listening:
            async with anyio.create_task_group() as group:
                group.start_soon(server.serve, listening)
                group.start_soon(neighbours.run, settings.peer_address, server.gives)


async def _policy(settings: Settings) -> tuple[str, trust.Verifier] | None:
    """What the images are held to; what of it is not understood is known now, not at the first pull."""
    if not settings.signature_policy:
        return None
    await anyio.to_thread.run_sync(trust.read, Path(settings.signature_policy), keys.verify)
    return settings.signature_policy, keys.verify


def _servicer(
    images: Images,
    records: RecordStore[ImageRecord],
    content: LocalContent,
    registry: HttpRegistry,
    layers: SnapshotdClient,
    spools: Spools,
    collector: Collector,
    life: Life,
    settings: Settings,
) -> ImagesServicer:
    catalog, leases, platform = images.catalog, images.leases, local_platform()
    return ImagesServicer(
        images,
        Loads(spools, catalog, leases, content, images.bringing, platform, images.trust),
        Saves(catalog, leases, content, images.whole),
        Transfers(
            catalog,
            leases,
            content,
            images.whole,
            registry,
            emit=records.emit,
            operations=images.operations,
            task_group=life.task_group,
        ),
        Commits(catalog, leases, content, layers, images.whole, images.bringing, spools, platform),
        collector,
        str(content.blobs),
        lazy=(settings.lazy == "on", frozenset(settings.lazy_handlers)),
    )


def main() -> None:
    settings = load(Settings, "imaged", sys.argv[1:])
    run("imaged", settings, partial(serve, settings))
