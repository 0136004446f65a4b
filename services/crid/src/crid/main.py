"""Wires crid and runs it."""

import sys
from contextlib import AsyncExitStack

import grpc

from common.api.runtime.v1.runtime_pb2_grpc import RuntimeStub
from common.clients.imaged import ImagedClient
from common.clients.snapshotd import SnapshotdClient
from common.life import Life, run
from common.places import socket_path
from common.rpc.channel import channel
from common.settings import load
from crid.failures import Failures
from crid.images import Images
from crid.servicer import image, runtime
from crid.servicer.streaming import Streams
from crid.settings import Settings
from crid.streaming.server import listen

MAX_REQUEST_BYTES = 16 << 20
"""What a kubelet's client may send; beyond it gRPC answers RESOURCE_EXHAUSTED with both sizes."""


def main() -> None:
    """Entry point."""
    settings = load(Settings, "crid", sys.argv[1:])

    async def serve(life: Life) -> None:
        async with AsyncExitStack() as stack:
            imaged = ImagedClient(socket_path(settings, "imaged"))
            stack.push_async_callback(imaged.close)
            snapshotd = SnapshotdClient(socket_path(settings, "snapshotd"))
            stack.push_async_callback(snapshotd.close)
            runtimed = channel(socket_path(settings, "runtimed"))
            stack.push_async_callback(runtimed.close)
            images = Images(imaged, snapshotd)
            backend = RuntimeStub(runtimed)
            streaming = await listen(settings, backend)
            life.start(streaming.serve)
            streams = Streams(backend, streaming)
            failures = Failures(backend)

            def register(server: grpc.aio.Server) -> None:
                runtime.register(server, runtimed, images, streams, failures)
                image.register(server, images, failures)

            await life.serve(register, socket_path(settings, "crid"), MAX_REQUEST_BYTES)

    run("crid", settings, serve)
