"""runtimed: settings, wiring, life."""

import sys
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import grpc

from common.api.runtime.v1 import runtime_pb2_grpc as rpc
from common.clients.shimd import ShimdClient
from common.clients.snapshotd import SnapshotdClient
from common.events.relay import OutboxRelay
from common.life import Life, run
from common.operations import Operations
from common.places import own_dirs, socket_path
from common.records import RecordStore
from common.records.redis import connect
from common.rpc import ops
from common.settings import load
from common.sys.hostroot import HostRoot
from common.sys.mounts import ensure_shared
from runtimed.adapters.shims import ProcessShims
from runtimed.adapters.snapshots import SnapshotdSnapshots
from runtimed.evidence import Evidence
from runtimed.feed import Feed
from runtimed.lifenews import LifeNews
from runtimed.machine import container, sandbox
from runtimed.meters import Meter
from runtimed.network.cni import Cni
from runtimed.oci import cgroups
from runtimed.oci.capabilities import host_capabilities
from runtimed.oci.features import HandlerFeatures
from runtimed.pressure.watch import PressureWatch
from runtimed.reconcile import Reconciler
from runtimed.record import ContainerRecord, SandboxRecord
from runtimed.redisfile import RedisFile
from runtimed.service import Service
from runtimed.servicer import RuntimeServicer
from runtimed.settings import Settings
from runtimed.transitions import Transitions
from runtimed.use.hostpaths import HostPaths
from runtimed.use.parts import Parts

DAEMON = "runtimed"
R = TypeVar("R", ContainerRecord, SandboxRecord)


def main() -> None:
    """Run the service."""
    settings = load(Settings, DAEMON, sys.argv[1:])
    run(DAEMON, settings, lambda life: _serve(life, settings))


async def _serve(life: Life, settings: Settings) -> None:
    run_dir, data_dir = own_dirs(settings, DAEMON)
    await anyio.to_thread.run_sync(ensure_shared, run_dir.parent)
    redis = await connect(settings.redis_url)
    shimd = ShimdClient(socket_path(settings, "shimd"))
    snapshotd = SnapshotdClient(socket_path(settings, "snapshotd"))
    cni = Cni(settings.cni_conf_dir, list(settings.cni_bin_dirs), str(data_dir / "cni"))
    await anyio.to_thread.run_sync(cni.load)
    await anyio.to_thread.run_sync(cgroups.repair)
    facts: dict[str, Any] = {
        "node": settings.node,
        "owner": DAEMON,
        "outbox_max_bytes": settings.outbox_max_bytes,
    }
    host = HostRoot(settings.host_root, (settings.run_dir, settings.data_dir))
    sandboxes = _records(redis, SandboxRecord, "sandbox", data_dir / "sandboxes", facts)
    containers = _records(redis, ContainerRecord, "container", data_dir / "containers", facts)
    parts = Parts(
        settings=settings,
        sandboxes=Transitions(sandboxes, sandbox.decide, "sandbox"),
        containers=Transitions(containers, container.decide, "container"),
        snapshots=SnapshotdSnapshots(snapshotd),
        shims=ProcessShims(shimd),
        cni=cni,
        feed=Feed(settings.event_buffer),
        operations=Operations(life.task_group),
        group=life.task_group,
        run_dir=run_dir,
        data_dir=data_dir,
        boot_id=(await anyio.Path(settings.boot_id_path).read_text()).strip(),
        host_caps=host_capabilities(),
        cgroup_version=cgroups.detect(),
        features=HandlerFeatures(settings.handlers),
        hostpaths=HostPaths(host),
        host=host,
        evidence=Evidence(),
    )
    LifeNews(parts.feed, sandboxes, containers, command_pods=settings.show_command_pods)
    Meter(sandboxes, containers)
    service = Service(parts)
    reconciler = Reconciler(service)
    life.start(RedisFile(redis, settings.data_dir).run, name="file of Redis")
    await reconciler.load()
    relay = await OutboxRelay.of(settings, DAEMON)
    life.start_once_serving(reconciler.watch, "watches")
    life.start(relay.run, name="relay")
    life.start(reconciler.run, name="reconcile")
    life.start(sandboxes.guard, name="guard of sandboxes")
    life.start(containers.guard, name="guard of containers")
    life.start(PressureWatch(parts).run, name="pressure")
    servicer = RuntimeServicer(service)
    try:
        await life.serve(partial(_register, servicer, parts.operations), socket_path(settings, DAEMON))
    finally:
        await shimd.close()
        await snapshotd.close()


def _register(servicer: RuntimeServicer, operations: Operations, server: grpc.aio.Server) -> None:
    rpc.add_RuntimeServicer_to_server(servicer, server)
    ops.register(server, operations)


def _records(redis: Any, cls: type[R], kind: str, directory: Path, facts: dict[str, Any]) -> RecordStore[R]:
    return RecordStore(redis, cls, kind=kind, directory=directory, sync_copies=False, **facts)
