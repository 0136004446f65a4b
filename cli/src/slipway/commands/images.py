"""pull, images, rmi, tag, untag, lease."""

import sys
from argparse import Namespace
from datetime import UTC, datetime

from common.api.cri.v1 import api_pb2 as cri
from common.api.images.v1 import images_pb2 as pb
from common.errors import FailedPreconditionError, NotFoundError
from slipway import render
from slipway.bars import Bars, Row
from slipway.connect import imaged, node
from slipway.logins import auth_of
from slipway.spans import seconds

STATES = {
    pb.LAYER_STATE_WAITING: "waiting",
    pb.LAYER_STATE_FETCHING: "fetching",
    pb.LAYER_STATE_UNPACKING: "unpacking",
    pb.LAYER_STATE_DONE: "done",
}


async def pull(arguments: Namespace) -> int:
    """Pull an image, with a bar for each layer on a terminal."""
    auth = auth_of(arguments.reference, arguments.creds)
    image = await fetch(arguments.run_dir, arguments.reference, auth, priority=arguments.priority)
    if arguments.output == "json":
        render.messages([image])
    else:
        sys.stdout.write(f"{image.id}\n")
    return 0


async def fetch(run_dir: str, reference: str, auth: pb.Auth | None, *, priority: int = 0) -> pb.Image:
    """Pull through imaged and show the progress on stderr."""
    bars = Bars()
    try:
        async with imaged(run_dir) as client:
            async for progress in client.pull(reference, auth, priority=priority):
                bars.show(map(_row, progress.layers))
                bars.show_left(progress.left_s if progress.HasField("left_s") else None)
                if progress.HasField("image"):
                    return progress.image
    finally:
        bars.close()
    message = f"the pull of {reference} ended without an image"
    raise FailedPreconditionError(message)


def _row(layer: pb.LayerProgress) -> Row:
    return Row(layer.digest, layer.size_bytes, layer.fetched_bytes, STATES.get(layer.state, ""))


async def images(arguments: Namespace) -> int:
    """List images."""
    async with node(arguments.run_dir) as on:
        found = (await on.images.ListImages(cri.ListImagesRequest())).images
    if arguments.report == "json":
        render.messages(found)
        return 0
    rows = [
        (tag, image.id.partition(":")[2][:12], render.size(image.size))
        for image in found
        for tag in (image.repo_tags or image.repo_digests or ["<none>"])
    ]
    render.table(("IMAGE", "ID", "SIZE"), sorted(rows))
    return 0


async def rmi(arguments: Namespace) -> int:
    """Take names away, and images with their last one; goes on after one that cannot go."""
    failed = False
    async with imaged(arguments.run_dir) as client:
        for reference in arguments.reference:
            try:
                done = await client.untag(reference, force=arguments.force)
            except NotFoundError:
                failed = True
                told = f"no image {render.clean(reference)!r}: `slipway images` lists them"
                sys.stderr.write(f"slipway: {told}\n")
                continue
            except FailedPreconditionError as exc:
                failed = True
                sys.stderr.write(f"slipway: {render.sentence(exc.message)} (-f)\n")
                continue
            sys.stdout.writelines(f"Untagged: {render.clean(name)}\n" for name in done.untagged)
            if done.removed_id:
                sys.stdout.write(f"Deleted: {done.removed_id}\n")
    return 1 if failed else 0


async def tag(arguments: Namespace) -> int:
    """Give an image one more name."""
    async with imaged(arguments.run_dir) as client:
        await client.tag(arguments.source, arguments.target)
    return 0


async def lease(arguments: Namespace) -> int:
    """Hold an image against collection for a time, or no longer."""
    span_s = 0.0 if arguments.end else seconds(f"--for {arguments.span!r}", arguments.span)
    async with imaged(arguments.run_dir) as client:
        image = await client.lease(arguments.reference, arguments.name, span_s)
    left = next((lease.until_ns for lease in image.leases if lease.name == arguments.name), 0)
    until = datetime.fromtimestamp(left / 1e9, UTC).isoformat(timespec="seconds") if left else ""
    sys.stdout.write(f"Held until {until}\n" if left else "Not held by this lease any more\n")
    return 0


async def untag(arguments: Namespace) -> int:
    """Take names away from images that stay."""
    async with imaged(arguments.run_dir) as client:
        for reference in arguments.reference:
            done = await client.untag(reference, keep_image=True)
            sys.stdout.writelines(f"Untagged: {render.clean(name)}\n" for name in done.untagged)
    return 0
