"""A gRPC channel over a Unix socket that carries the trace and raises our errors."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import grpc
from opentelemetry import propagate
from opentelemetry.trace import SpanKind

from common.errors import UnavailableError
from common.observe.trace import span
from common.rpc import status
from common.rpc.server import OPTIONS

PATIENCE_S = 10.0
"""How long a call waits for a service that is not there: longer than one that died takes to come back."""


def channel(socket: str, *, patience_s: float = PATIENCE_S) -> grpc.aio.Channel:
    """A channel to one service.

    A call waits for a service that is not up yet, within its deadline and at most `patience_s`; then it raises
    UnavailableError.
    """
    peer = _Peer(socket, patience_s)
    options = [*OPTIONS, ("grpc.default_authority", "localhost"), ("grpc.initial_reconnect_backoff_ms", 100)]
    options += [("grpc.max_reconnect_backoff_ms", 1000)]
    interceptors = [_Unary(peer), _Stream(peer)]
    peer.channel = grpc.aio.insecure_channel(f"unix:{socket}", options=options, interceptors=interceptors)
    return peer.channel


class _Peer:
    """The service at the other end."""

    channel: grpc.aio.Channel

    def __init__(self, socket: str, patience_s: float) -> None:
        self._socket = socket
        self._patience_s = patience_s

    async def ready(self, deadline_s: float | None) -> None:
        """Wait until it can be called; not beyond the call's own deadline, which is then the call's to tell."""
        if self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return
        if deadline_s is not None and deadline_s <= self._patience_s:
            return
        with anyio.move_on_after(self._patience_s):
            await self.channel.channel_ready()
            return
        raise UnavailableError(f"{self._socket}: nobody has answered for {self._patience_s:g} s")


def _outgoing(details: Any) -> Any:
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    metadata = grpc.aio.Metadata(*(details.metadata or ()), *carrier.items())
    return details._replace(metadata=metadata, wait_for_ready=True)


def _name(details: Any) -> str:
    method = details.method
    return (method.decode() if isinstance(method, bytes) else str(method)).strip("/")


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, peer: _Peer) -> None:
        self._peer = peer

    async def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Awaitable[Any]], details: Any, request: Any
    ) -> Any:
        with span(_name(details), kind=SpanKind.CLIENT):
            await self._peer.ready(details.timeout)
            try:
                call = await continuation(_outgoing(details), request)
                return await call
            except grpc.aio.AioRpcError as exc:
                raise status.from_rpc(exc) from exc


class _Stream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, peer: _Peer) -> None:
        self._peer = peer

    async def intercept_unary_stream(
        self, continuation: Callable[[Any, Any], Awaitable[Any]], details: Any, request: Any
    ) -> AsyncIterator[Any]:
        await self._peer.ready(details.timeout)
        call = await continuation(_outgoing(details), request)
        return _items(call)


async def _items(call: Any) -> AsyncIterator[Any]:
    try:
        async for item in call:
            yield item
    except grpc.aio.AioRpcError as exc:
        raise status.from_rpc(exc) from exc
    finally:
        call.cancel()
