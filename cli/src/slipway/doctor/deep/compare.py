"""Rules: what is recorded, against what is on the machine. Pure; each rule yields what does not fit."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from slipway.doctor.deep.difference import Difference
from slipway.doctor.deep.history import Told
from slipway.doctor.deep.inventory import Inventory
from slipway.doctor.deep.recorded import Recorded, decode

RUNS = ("running", "paused")
MADE = ("created", "starting", *RUNS, "unknown", "exited")
CHUNK = 1 << 20
Fields = dict[str, Any]


@dataclass(frozen=True)
class Node:
    """One look at a node from both sides."""

    run_dir: str
    has: Inventory
    said: Recorded
    told: Told

    def records(self, kind: str) -> dict[str, Fields]:
        return self.said.records[kind]


def records(node: Node) -> Iterator[Difference]:
    """Redis in itself, and the copies beside the objects."""
    for key in node.said.loose:
        yield Difference("record", key, "no index of Redis names this key")
    for kind, known in node.said.records.items():
        for name, fields in known.items():
            copy = node.has.copies[kind].get(name)
            if not fields:
                yield Difference("record", name, f"the {kind}'s record cannot be read")
            elif copy is None:
                yield Difference("record", name, f"the {kind}'s record has no copy on disk")
            elif kind != "snapshot" and (revision := _revision(copy)) != fields.get("revision"):
                yield Difference(
                    "record",
                    name,
                    f"the {kind}'s copy is of revision {revision}, not {fields.get('revision')}",
                )
        for name in sorted(set(node.has.copies[kind]) - set(known)):
            yield Difference("record", name, f"a copy of a {kind}'s record, which Redis has not")
    for name in node.has.empty:
        yield Difference("record", name, "a directory without a record")


def containers(node: Node) -> Iterator[Difference]:
    """Each container, and what it needs in its state."""
    has = node.has
    for name, fields in node.records("container").items():
        state = fields.get("state")
        if fields.get("sandbox_id") not in node.records("sandbox"):
            yield Difference("container", name, "its sandbox has no record")
        if state in RUNS and not has.shims.get(name):
            yield Difference("shim", name, "the container runs, and no shim lives")
        if state in RUNS and not _is_process(fields):
            yield Difference(
                "process", name, f"the container runs, and its init {fields.get('pid')} does not"
            )
        if state in ("exited", "created") and has.processes.get(name):
            yield Difference(
                "process", name, f"the container is {state}, and processes {has.processes[name]} are in it"
            )
        if state in MADE and name not in node.records("snapshot"):
            yield Difference("snapshot", name, "the container has none")
        # a boot takes the bundles, and leaves no sandbox ready
        if state in MADE and name not in has.bundles and _is_ready(node, fields.get("sandbox_id")):
            yield Difference("bundle", name, "the container has none")


def sandboxes(node: Node) -> Iterator[Difference]:
    """Each sandbox, and what it needs in its state."""
    has = node.has
    for name, fields in node.records("sandbox").items():
        ready = fields.get("state") == "ready"
        networked = not fields.get("host_network") and not fields.get("isolated")
        if ready and name not in has.sandboxes:
            yield Difference("sandbox", name, "it is ready, and has no directory")
        for kind, path in (fields.get("namespaces") or {}).items():
            if ready and path not in has.mounts:
                yield Difference("netns", name, f"its {kind} namespace is not pinned at {path}")
        if ready and networked and name not in has.cni:
            yield Difference("cni", name, "it is ready, and nothing is remembered of its network")
        if (
            fields.get("state") == "notready"
            and fields.get("network_released")
            and name in has.addresses.values()
        ):
            yield Difference("address", name, "its network was released, and it has an address")


def strays(node: Node) -> Iterator[Difference]:
    """What no record accounts for."""
    pods, own = set(node.records("sandbox")), set(node.records("container"))
    keys, layers = set(node.records("snapshot")), set(node.records("layer"))
    has = node.has
    for kind, names, known in (
        ("shim", has.shims, own),
        ("pause", has.pauses, pods),
        ("bundle", has.bundles, own),
        ("sandbox", has.sandboxes, pods),
        ("snapshot", has.snapshots, keys),
        ("layer", has.layers, layers),
        ("cni", has.cni, pods),
        ("address", has.addresses.values(), pods),
        ("rule", has.rules, pods),
    ):
        for name in sorted(set(names) - known):
            yield Difference(kind, name, "there is no record of what it belongs to")
    for name in sorted(keys):
        if name.partition("-")[0] not in own:
            yield Difference("snapshot", name, "it has no container")
    for path in has.mounts:
        part = path[len(node.run_dir) + 1 :].split("/")
        if part[2] not in {"sandboxes": pods, "bundles": own, "mounts": keys, "layers": layers}.get(
            part[1], {part[2]}
        ):
            yield Difference("mount", path, "there is no record of what it belongs to")
    for path in has.temporary:
        yield Difference("temporary", path, "it is not finished, or not removed")


def outlived(node: Node) -> Iterator[Difference]:
    """Processes and cgroups that are there longer than what they were for."""
    has = node.has
    for pid, name in has.lost.items():
        yield Difference("process", pid, f"{name}: no service, shim or pause accounts for it")
    if not node.records("snapshot"):
        for pid, name in has.servers.items():
            yield Difference("process", pid, f"{name}: it serves a layer, and there is no snapshot")
    # cgroups of other nodes have such names too: of ours are those of which an event was told
    for name in sorted(node.told.ended("container") & set(has.cgroups)):
        if name not in node.records("container"):
            pids = has.processes.get(name) or "no process"
            yield Difference(
                "cgroup", name, f"of a container that was removed, with {pids}: {has.cgroups[name][0]}"
            )


def snapshots(node: Node) -> Iterator[Difference]:
    """Each snapshot: its directory, its mount, its layers."""
    for name, fields in node.records("snapshot").items():
        if name not in node.has.snapshots:
            yield Difference("snapshot", name, "its directory is gone")
        if fields.get("path") not in node.has.mounts:
            yield Difference("mount", name, f"the snapshot is not mounted at {fields.get('path')}")
        for layer in fields.get("layers", ()):
            if layer not in node.records("layer"):
                yield Difference("layer", layer, f"snapshot {name} stands on it, and it is not here")
    for name in node.records("layer"):
        if name not in node.has.layers:
            yield Difference("layer", name, "its directory is gone")


def images(node: Node) -> Iterator[Difference]:
    """Each image: that all of it is here, whole; and what no image needs."""
    needed: set[str] = set()
    for name, fields in node.records("image").items():
        layers = {layer["digest"]: layer["size_bytes"] for layer in fields.get("layers", ())}
        must = {name, *fields.get("documents", ()), *(blob["digest"] for blob in fields.get("others", ()))}
        needed |= must | set(layers)
        for digest in sorted(must - set(node.has.blobs)):
            yield Difference("blob", digest, f"image {name} needs it, and it is not here")
        unpacked = {f"sha256:{layer}" for layer in node.records("layer")}
        for digest, diff_id in zip(layers, fields.get("diff_ids", ()), strict=False):
            if digest not in node.has.blobs and diff_id not in unpacked:
                yield Difference("blob", digest, f"image {name} has this layer neither packed nor unpacked")
    for digest, path in node.has.blobs.items():
        if digest not in needed:
            yield Difference("blob", digest, "no image needs it", passing=True)
        elif _digest(path) != digest:
            yield Difference("blob", digest, "its content is another")
    for name in node.has.partial:
        yield Difference("blob", name, "it is not whole", passing=True)


RULES: tuple[Callable[[Node], Iterator[Difference]], ...] = (
    records, containers, sandboxes, strays, outlived, snapshots, images,
)  # fmt: skip


def _revision(copy: Path) -> int | None:
    try:
        return decode(copy.read_bytes()).get("revision")
    except OSError:
        return None


def _is_ready(node: Node, sandbox_id: str | None) -> bool:
    return node.records("sandbox").get(sandbox_id or "", {}).get("state") == "ready"


def _is_process(fields: Fields) -> bool:
    try:
        stat = Path(f"/proc/{fields.get('pid')}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(stat[19]) == fields.get("pid_started_ticks") and stat[0] != "Z"


def _digest(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return ""
    return _digest_of(path, (stat.st_ino, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=1 << 16)
def _digest_of(path: Path, _version: tuple[int, int, int]) -> str:
    """Once for several looks: a node's blobs take minutes."""
    told = hashlib.new(path.parent.name)
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                told.update(chunk)
    except OSError:
        return ""
    return f"{path.parent.name}:{told.hexdigest()}"
