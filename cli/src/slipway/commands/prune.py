"""prune, system prune, image prune."""

import re
import sys
import time
from argparse import Namespace
from typing import Any

import anyio.to_thread

from common.api.cri.v1 import api_pb2 as cri
from common.api.images.v1 import images_pb2 as pb
from common.buildcache import is_cache
from common.errors import InvalidArgumentError
from slipway.building import caches, workspace
from slipway.connect import OWNER, Node, facts, imaged, node
from slipway.containers.removal import remove_pod
from slipway.options.durations import seconds
from slipway.output import render
from slipway.streams import questions

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?i?)B?", re.IGNORECASE)
_SCALES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SCALES |= {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}
_MANY = 20
_LEFT = "what pulls that failed left"


async def images(arguments: Namespace) -> int:
    """Remove images by rules, and what pulls that failed left."""
    rules = pb.PruneRequest(
        all=arguments.all,
        older_than_s=_until(arguments.filter),
        keep_last=arguments.keep_last,
        max_bytes=_bytes(arguments.max_size) if arguments.max_size else 0,
        dry_run=arguments.dry_run,
    )
    which = "images that nothing uses" if arguments.all else "images without a name"
    if not _agreed(arguments, f"{which}, and {_LEFT}"):
        return 1
    async with imaged(arguments.run_dir) as client:
        _tell(await client.prune(rules), arguments)
    return 0


async def everything(arguments: Namespace) -> int:
    """Remove ended pods that the command line made, caches of builds, then images and what pulls that failed left."""
    older_than_s = _until(arguments.filter)
    which = "images that nothing uses" if arguments.all else "images without a name"
    if not _agreed(arguments, f"ended pods that `slipway run` made, caches of builds, {_LEFT}, and {which}"):
        return 1
    async with node(arguments.run_dir) as on:
        limit_ns = time.time_ns() - int(older_than_s * 1e9)
        async for uid in workspace.sweep(on, until_ns=limit_ns, dry_run=arguments.dry_run):
            _say("left of a build", uid, arguments)
        for pod in await _ended(on, older_than_s):
            if not arguments.dry_run:
                await remove_pod(on, pod.id, pod.metadata.uid)
            _say("pod", pod.metadata.name, arguments)
    freed_bytes = await anyio.to_thread.run_sync(_caches, arguments, older_than_s)
    rules = pb.PruneRequest(
        all=arguments.all, build_caches=True, older_than_s=older_than_s, dry_run=arguments.dry_run
    )
    async with imaged(arguments.run_dir) as client:
        _tell(await client.prune(rules), arguments, freed_bytes)
    return 0


def _caches(arguments: Namespace, older_than_s: float) -> int:
    """Remove the cache mounts of builds that no build uses; returns the bytes that are free. Blocking."""
    limit_ns, freed_bytes = time.time_ns() - int(older_than_s * 1e9), 0
    data_dir = facts(arguments.run_dir).get("data_dir", "/var/lib/slipway")
    if not arguments.dry_run:
        caches.sweep(data_dir)
    for cache in caches.listed(data_dir):
        if cache.in_use or cache.used_at_ns > limit_ns or not (arguments.dry_run or caches.remove(cache)):
            continue
        freed_bytes += cache.size_bytes
        _say("build cache", f"{cache.id}, last used {render.age(cache.used_at_ns)}", arguments)
    return freed_bytes


def _say(kind: str, what: str, arguments: Namespace) -> None:
    if arguments.output != "json":
        verb = "Would remove" if arguments.dry_run else "Removed"
        sys.stdout.write(f"{verb} {kind}: {render.clean(what)}\n")


async def _ended(on: Node, older_than_s: float) -> list[Any]:
    """Pods of the command line in which nothing runs, or will; not of a build, which removes its own."""
    limit_ns = time.time_ns() - int(older_than_s * 1e9)
    pods, containers = await on.pods(), await on.containers()
    alive = {c.pod_sandbox_id for c in containers if c.state != cri.CONTAINER_EXITED}
    held = {c.pod_sandbox_id for c in containers}
    ended = [p for p in pods if p.state == cri.SANDBOX_NOTREADY or p.id in held - alive]
    builds = workspace.running(on.run_dir)
    return [
        p for p in ended if OWNER in p.labels and p.created_at <= limit_ns and p.metadata.uid not in builds
    ]


def _agreed(arguments: Namespace, what: str) -> bool:
    """Ask, unless told not to; who cannot answer must say --force.

    Raises:
        InvalidArgumentError: nobody is there to answer.
    """
    if arguments.force or arguments.dry_run:
        return True
    if not sys.stdin.isatty():
        message = f"this removes {what}: give --force, or --dry-run to see what would go"
        raise InvalidArgumentError(message)
    return questions.line(f"This removes {what}. Go on? [y/N] ").strip().lower() in ("y", "yes")


def _tell(pruned: pb.PruneResponse, arguments: Namespace, freed_bytes: int = 0) -> None:
    verdicts, left = pruned.verdicts, pruned.leftovers
    if arguments.output == "json":
        render.messages(verdicts)
        return
    cached = [v for v in verdicts if is_cache(v.names)]
    shown = [v for v in verdicts if (v.goes or arguments.dry_run) and v not in cached]
    if shown:
        headings = ("IMAGE", "ID", "USED", "FREES", "VERDICT", "WHY")
        render.table(headings, [row for verdict in shown for row in _rows(verdict, arguments)])
    steps = sum(v.goes for v in cached)
    if steps:
        _say("cached steps of builds", str(steps), arguments)
    if left.blobs or left.layers:
        _say("left of pulls", f"{left.blobs} blobs, {left.layers} layers", arguments)
    freed = freed_bytes + sum(v.frees_blob_bytes + v.frees_layer_bytes for v in verdicts if v.goes)
    freed += left.blob_bytes + left.layer_bytes
    sys.stdout.write(f"{'Would free' if arguments.dry_run else 'Freed'}: {render.size(freed)}\n")


def _rows(verdict: pb.Verdict, arguments: Namespace) -> list[tuple[str, ...]]:
    """A row for each name; the first says what the image frees."""
    goes = "goes" if arguments.dry_run else "gone"
    frees = render.size(verdict.frees_blob_bytes + verdict.frees_layer_bytes) if verdict.goes else ""
    return [
        (
            name,
            verdict.id.partition(":")[2][:12],
            render.age(verdict.used_at_ns),
            "" if number else frees,
            goes if verdict.goes else "stays",
            verdict.why,
        )
        for number, name in enumerate(render.names(verdict.names))
    ]


def _until(filters: list[str]) -> float:
    """The age of `--filter until=AGE` in seconds; 0 without."""
    age_s = 0.0
    for text in filters:
        key, _, value = text.partition("=")
        if key != "until":
            message = f"--filter {text!r}: want until=AGE, such as until=24h or until=7d"
            raise InvalidArgumentError(message)
        age_s = seconds(f"--filter {text!r}", value)
    return age_s


def _bytes(text: str) -> int:
    found = _SIZE.fullmatch(text)
    count = int(float(found[1]) * _SCALES[found[2].lower()]) if found and len(text) < _MANY else 0
    if count <= 0:
        message = f"--max-size {text!r}: want a size such as 20GB or 512MiB"
        raise InvalidArgumentError(message)
    return count
