"""push, image copy, image index."""

import sys
from argparse import Namespace
from collections.abc import AsyncIterator

from common.api.images.v1 import images_pb2 as pb
from common.errors import FailedPreconditionError
from slipway.connect import imaged
from slipway.options.credentials import auth_of
from slipway.output import render
from slipway.output.bars import Bars, Row

STATES = {
    pb.BLOB_STATE_WAITING: "waiting",
    pb.BLOB_STATE_FETCHING: "fetching",
    pb.BLOB_STATE_SENDING: "sending",
    pb.BLOB_STATE_SENT: "sent",
    pb.BLOB_STATE_MOUNTED: "mounted",
    pb.BLOB_STATE_THERE: "already there",
}
_WHOLE = (pb.BLOB_STATE_SENT, pb.BLOB_STATE_MOUNTED, pb.BLOB_STATE_THERE)


async def push(arguments: Namespace) -> int:
    """Push an image, with a bar for each blob on a terminal."""
    auth = auth_of(arguments.target or arguments.reference, arguments.creds)
    async with imaged(arguments.run_dir) as client:
        progress = client.push(
            arguments.reference,
            arguments.target,
            auth,
            platform=arguments.platform,
            all_platforms=arguments.all_platforms,
        )
        return await _follow(progress, arguments)


async def copy(arguments: Namespace) -> int:
    """Copy an image between registries."""
    source = auth_of(arguments.source, arguments.source_creds)
    target = auth_of(arguments.target, arguments.creds)
    async with imaged(arguments.run_dir) as client:
        progress = client.copy(arguments.source, arguments.target, source, target)
        return await _follow(progress, arguments)


async def index(arguments: Namespace) -> int:
    """Make one image of several, each for its platform."""
    auth = auth_of(arguments.target, arguments.creds)
    sources = [(source, auth_of(source, arguments.source_creds)) for source in arguments.source]
    async with imaged(arguments.run_dir) as client:
        return await _follow(client.make_index(arguments.target, sources, auth), arguments)


async def _follow(progress: AsyncIterator[pb.PushProgress], arguments: Namespace) -> int:
    bars, last = Bars(shown=not arguments.quiet), pb.PushProgress()
    try:
        async for last in progress:
            bars.show(map(_row, last.blobs))
    finally:
        bars.close()
    if not last.digest:
        message = "it was stopped before the image was at the registry"
        raise FailedPreconditionError(message)
    if last.left_out:
        told = render.clean(", ".join(last.left_out))
        sys.stderr.write(
            f"slipway: one platform was pushed, without {told}: `slipway pull --all-platforms`\n"
        )
    if arguments.output == "json":
        render.messages([last])
    else:
        sys.stdout.write(f"{render.clean(last.reference)}@{last.digest}\n")
    return 0


def _row(blob: pb.BlobProgress) -> Row:
    sent = blob.size_bytes if blob.state in _WHOLE else blob.sent_bytes
    return Row(blob.digest, blob.size_bytes, sent, STATES.get(blob.state, ""))
