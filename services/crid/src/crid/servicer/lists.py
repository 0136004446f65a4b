"""The Stream* lists: what the unary lists answer, in messages that stay small (KEP-5825).

A stream has the same filter as its unary list and each item exactly once; an error ends it before anything
was told, since the list is whole before its first message. Requests and answers of both have the same wire
form (a filter, and one repeated field), so bytes go on as they are, and are cut between two items.
"""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from common.api.cri.v1 import api_pb2 as cri

BACKEND = "/slipway.runtime.v1.Runtime"
"""runtimed's service, as a path."""
MESSAGE_BYTES = 1 << 20
"""A message is sent as soon as it has this size; a kubelet takes 16 MiB."""
UNARY: dict[str, tuple[str, Any]] = {
    "StreamPodSandboxes": ("ListPodSandbox", cri.StreamPodSandboxesResponse),
    "StreamContainers": ("ListContainers", cri.StreamContainersResponse),
    "StreamContainerStats": ("ListContainerStats", cri.StreamContainerStatsResponse),
    "StreamPodSandboxMetrics": ("ListPodSandboxMetrics", cri.StreamPodSandboxMetricsResponse),
    "StreamPodSandboxStats": ("ListPodSandboxStats", cri.StreamPodSandboxStatsResponse),
}


def handlers(runtimed: grpc.aio.Channel) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
    """Handlers of the streams by their names."""
    return {name: _stream(runtimed, unary, message) for name, (unary, message) in UNARY.items()}


def _stream(runtimed: grpc.aio.Channel, unary: str, message: Any) -> Any:
    call: Any = runtimed.unary_unary(f"{BACKEND}/{unary}", response_deserializer=message.FromString)

    async def stream(request: bytes, context: Any) -> AsyncIterator[Any]:
        for piece in pieces(await call(request, timeout=context.time_remaining())):
            yield piece

    return grpc.unary_stream_rpc_method_handler(stream, response_serializer=message.SerializeToString)


def pieces(whole: Any) -> list[Any]:
    """A message with one repeated field, in order, as messages of about MESSAGE_BYTES; none for no items."""
    field = whole.DESCRIPTOR.fields[0].name
    made: list[Any] = []
    room = 0
    for item in getattr(whole, field):
        if room <= 0:
            made.append(type(whole)())
            room = MESSAGE_BYTES
        getattr(made[-1], field).append(item)
        room -= item.ByteSize()
    return made
