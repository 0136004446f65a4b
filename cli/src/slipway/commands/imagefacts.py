"""history, image inspect."""

import json
import sys
from argparse import Namespace
from datetime import datetime
from typing import Any

from common.api.images.v1 import images_pb2 as pb
from slipway.connect import imaged, snapshotd
from slipway.output import render

_COMMAND_WIDTH = 60


async def history(arguments: Namespace) -> int:
    """The steps that made an image, newest first, with what each added to the disk."""
    async with imaged(arguments.run_dir) as images, snapshotd(arguments.run_dir) as snapshots:
        image = await images.get(arguments.reference)
        sizes = {layer.diff_id: layer.size_bytes for layer in await snapshots.list_layers(image.diff_ids)}
    steps = steps_of(image, sizes)
    if arguments.quiet:
        for step in steps:
            sys.stdout.write(f"{_id(step, whole=arguments.no_trunc)}\n")
        return 0
    if arguments.report == "json":
        render.document(steps)
        return 0
    rows = [
        (
            _id(step, whole=arguments.no_trunc),
            age_of(step["created"]),
            step["created_by"] if arguments.no_trunc else _short(step["created_by"]),
            render.size(step["size_bytes"]),
            step["comment"],
        )
        for step in steps
    ]
    render.table(("IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"), rows)
    return 0


def _id(step: dict[str, Any], *, whole: bool) -> str:
    text = str(step["id"])
    return text if whole else text.removeprefix("sha256:")[:12]


def steps_of(image: pb.Image, sizes: dict[str, int]) -> list[dict[str, Any]]:
    """A config's history, newest first; layers that it does not mention come as steps without a command."""
    config = json.loads(image.config or b"{}")
    layers = list(image.diff_ids)
    steps: list[dict[str, Any]] = []
    for entry in filter(lambda e: isinstance(e, dict), config.get("history") or []):
        diff_id = "" if entry.get("empty_layer") or not layers else layers.pop(0)
        steps.append(_step(entry, diff_id, sizes))
    steps += [_step({}, diff_id, sizes) for diff_id in layers]
    for step in steps:
        step["id"] = "<missing>"
    if steps:
        steps[-1]["id"] = image.id
    return steps[::-1]


def _step(entry: dict[str, Any], diff_id: str, sizes: dict[str, int]) -> dict[str, Any]:
    return {
        "created": str(entry.get("created", "")),
        "created_by": str(entry.get("created_by", "")),
        "comment": str(entry.get("comment", "")),
        "diff_id": diff_id,
        "size_bytes": sizes.get(diff_id, 0),
    }


async def inspect(arguments: Namespace) -> int:
    """All that is known of images, with docker's keys."""
    async with imaged(arguments.run_dir) as client:
        found = [await client.get(reference) for reference in arguments.reference]
    render.document([facts_of(image) for image in found])
    return 0


def facts_of(image: pb.Image) -> dict[str, Any]:
    """An image as `docker image inspect` shows it, and what only we know."""
    config = json.loads(image.config or b"{}")
    return {
        "Id": image.id,
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Created": config.get("created", ""),
        "Author": config.get("author", ""),
        "Os": config.get("os", ""),
        "Architecture": config.get("architecture", ""),
        "Variant": config.get("variant", ""),
        "Config": config.get("config") or {},
        "Size": image.size_bytes,
        "RootFS": {"Type": "layers", "Layers": list(image.diff_ids)},
        "Manifest": image.manifest_digest,
        "Blobs": [
            {"Digest": layer.digest, "Size": layer.size_bytes, "MediaType": layer.media_type}
            for layer in image.layers
        ],
        "PulledAtNs": image.pulled_at_ns,
        "UsedAtNs": image.used_at_ns,
        "Leases": {lease.name: lease.until_ns for lease in image.leases},
        "Pinned": image.pinned,
        "ArtifactType": image.artifact_type,
        "Coming": list(image.coming),
        "Damage": image.damage,
    }


def age_of(created: str) -> str:
    """How long ago a time of a config is."""
    try:
        at = datetime.fromisoformat(created)
        seconds = at.timestamp()
    except (ValueError, TypeError, OverflowError):
        return "N/A"
    return render.age(int(seconds * 1e9)) if at.year > 1 else "N/A"  # the year 1 is Go's time that is none


def _short(text: str) -> str:
    return text if len(text) <= _COMMAND_WIDTH else text[: _COMMAND_WIDTH - 1] + "…"
