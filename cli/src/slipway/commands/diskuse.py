"""system df."""

import sys
from argparse import Namespace
from typing import Any, NamedTuple

import anyio
import anyio.to_thread

from common.api.cri.v1 import api_pb2 as cri
from common.api.images.v1 import images_pb2 as pb
from common.buildcache import is_cache
from slipway.building import caches
from slipway.connect import facts, imaged, node, snapshotd
from slipway.output import render


class _Kind(NamedTuple):
    """A row: how many there are, how many are in use, what they take and what of it could go."""

    name: str
    total: int
    active: int
    size_bytes: int
    reclaimable_bytes: int


class _Found(NamedTuple):
    verdicts: list[Any]
    """Of images, what builds keep left out."""
    steps: list[Any]
    """Verdicts of what steps of builds made, were only these to go."""
    goes: list[Any]
    """Verdicts of all that could go together."""
    leftovers: pb.Leftovers
    blob_bytes: int
    layers: list[Any]
    stood_on: set[str]
    """Diff IDs of layers that snapshots stand on."""
    usages: dict[str, Any]
    containers: list[Any]
    caches: list[caches.Cache]
    """Mounts of builds."""


async def df(arguments: Namespace) -> int:
    """What takes space, and what of it could go; what only builds keep counts as theirs."""
    found = await _asked(arguments.run_dir)
    kinds = _kinds(found)
    if arguments.report == "json":
        render.document([kind._asdict() for kind in kinds])
        return 0
    rows = [(kind.name, kind.total, kind.active, render.size(kind.size_bytes), _part(kind)) for kind in kinds]
    render.table(("TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"), rows)
    if arguments.verbose:
        _verbose(found)
    return 0


async def _asked(run_dir: str) -> _Found:
    found: dict[str, Any] = {}
    async with imaged(run_dir) as images, snapshotd(run_dir) as snapshots, node(run_dir) as on:

        async def of_images() -> None:
            every = await images.prune(pb.PruneRequest(all=True, dry_run=True))
            found["verdicts"] = [v for v in every.verdicts if not is_cache(v.names)]
            found["goes"] = [v for v in every.verdicts if v.goes]
            found["leftovers"] = every.leftovers
            alone = await images.prune(pb.PruneRequest(build_caches=True, dry_run=True))
            found["steps"] = [v for v in alone.verdicts if is_cache(v.names)]
            found["blob_bytes"] = (await images.usage()).used_bytes

        async def of_snapshots() -> None:
            found["layers"] = await snapshots.list_layers()
            found["stood_on"] = {d for snapshot in await snapshots.list() for d in snapshot.diff_ids}
            found["usages"] = {usage.key: usage for usage in (await snapshots.usage(())).usages}

        async def of_caches() -> None:
            data_dir = facts(run_dir).get("data_dir", "/var/lib/slipway")
            found["caches"] = await anyio.to_thread.run_sync(caches.listed, data_dir)

        async def of_containers() -> None:
            found["containers"] = await on.containers()

        async with anyio.create_task_group() as group:
            for ask in (of_images, of_snapshots, of_containers, of_caches):
                group.start_soon(ask)
    return _Found(**found)


def _kinds(found: _Found) -> list[_Kind]:
    step_blobs = sum(v.frees_blob_bytes for v in found.steps)
    step_layers = sum(v.frees_layer_bytes for v in found.steps)
    used = sum("container" in v.why for v in found.verdicts if not v.goes)
    running = [c for c in found.containers if c.state == cri.CONTAINER_RUNNING]
    ended = {c.id for c in found.containers if c.state == cri.CONTAINER_EXITED}
    sizes = {key: usage.used_bytes for key, usage in found.usages.items()}
    return [
        _Kind(
            "Images (blobs)",
            len(found.verdicts),
            used,
            found.blob_bytes - step_blobs,
            sum(v.frees_blob_bytes for v in found.goes) - step_blobs + found.leftovers.blob_bytes,
        ),
        _Kind(
            "Layers (unpacked)",
            len(found.layers),
            len({layer.diff_id for layer in found.layers} & found.stood_on),
            sum(layer.size_bytes for layer in found.layers) - step_layers,
            sum(v.frees_layer_bytes for v in found.goes) - step_layers + found.leftovers.layer_bytes,
        ),
        _Kind(
            "Containers",
            len(found.containers),
            len(running),
            sum(sizes.values()),
            sum(size for key, size in sizes.items() if key in ended),
        ),
        _Kind(
            "Build caches",
            len(found.caches) + len(found.steps),
            sum(cache.in_use for cache in found.caches) + sum(not v.goes for v in found.steps),
            sum(cache.size_bytes for cache in found.caches) + step_blobs + step_layers,
            sum(c.size_bytes for c in found.caches if not c.in_use) + step_blobs + step_layers,
        ),
    ]


def _part(kind: _Kind) -> str:
    share = round(100 * kind.reclaimable_bytes / kind.size_bytes) if kind.size_bytes else 0
    return f"{render.size(kind.reclaimable_bytes)} ({share}%)"


def _verbose(found: _Found) -> None:
    sys.stdout.write("\n")
    images = [
        (
            name,
            v.id.partition(":")[2][:12],
            render.age(v.used_at_ns),
            render.size(v.size_bytes),
            "" if v.goes else v.why,
        )
        for v in found.verdicts
        for name in render.names(v.names)
    ]
    render.table(("IMAGE", "ID", "USED", "SIZE", "STAYS, SINCE IT"), images)
    sys.stdout.write("\n")
    containers = [
        (
            c.metadata.name,
            c.id[:12],
            render.age(c.created_at),
            render.size(found.usages[c.id].used_bytes if c.id in found.usages else 0),
            found.usages[c.id].used_inodes if c.id in found.usages else 0,
        )
        for c in found.containers
    ]
    render.table(("CONTAINER", "ID", "CREATED", "WRITTEN", "FILES"), containers)
