"""Sends the spans that this node's services brought on to a collector, as they came."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc

from common.observe.log import get_logger
from opsd import meters

MAX_WAITING = 256
MAX_WAITING_BYTES = 16 << 20
"""Deliveries that wait for the collector; more are dropped and counted."""
SEND_S = 5.0
_log = get_logger("forward")


class Forward:
    """A queue to one collector; `run` empties it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = rpc.TraceServiceStub(channel)  # type: ignore[no-untyped-call]
        self._give, self._waiting = anyio.create_memory_object_stream[pb.ExportTraceServiceRequest](
            MAX_WAITING
        )
        self._bytes = 0

    def take(self, request: pb.ExportTraceServiceRequest) -> None:
        """Queue a delivery."""
        size = request.ByteSize()
        if self._bytes + size > MAX_WAITING_BYTES:
            meters.DROPPED.inc()
            return
        try:
            self._give.send_nowait(request)
            self._bytes += size
        except anyio.WouldBlock:
            meters.DROPPED.inc()

    async def run(self) -> None:
        """Send for ever; what the collector does not take in time is dropped, as exporters do."""
        async for request in self._waiting:
            self._bytes -= request.ByteSize()
            try:
                await self._stub.Export(request, timeout=SEND_S)
            except grpc.aio.AioRpcError as exc:
                meters.DROPPED.inc()
                _log.warning("spans.dropped", error=exc.details(), code=exc.code().name)


@asynccontextmanager
async def forwarding(endpoint: str) -> AsyncIterator[Forward | None]:
    """To an endpoint as http://HOST:PORT, https://HOST:PORT or unix:PATH; None for an empty one."""
    if not endpoint:
        yield None
        return
    scheme, _, address = endpoint.partition("://")
    channel = (
        grpc.aio.secure_channel(address, grpc.ssl_channel_credentials())
        if scheme == "https"
        else grpc.aio.insecure_channel(address or endpoint)
    )
    async with channel:
        yield Forward(channel)
