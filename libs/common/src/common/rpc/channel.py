"""A gRPC channel over a Unix socket that carries the trace and raises our errors."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from opentelemetry import propagate
from opentelemetry.trace import SpanKind

from common.observe.trace import span
from common.rpc import status
from common.rpc.server import OPTIONS


def channel(socket: str) -> grpc.aio.Channel:
    """A channel to one service; calls wait for a service that is not up yet, within their deadline."""
    options = [*OPTIONS, ("grpc.default_authority", "localhost"), ("grpc.initial_reconnect_backoff_ms", 100)]
    options += [("grpc.max_reconnect_backoff_ms", 1000)]
    return grpc.aio.insecure_channel(f"unix:{socket}", options=options, interceptors=[_Unary(), _Stream()])


def _outgoing(details: Any) -> Any:
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    metadata = grpc.aio.Metadata(*(details.metadata or ()), *carrier.items())
    return details._replace(metadata=metadata, wait_for_ready=True)


def _name(details: Any) -> str:
    method = details.method
    return (method.decode() if isinstance(method, bytes) else str(method)).strip("/")


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Awaitable[Any]], details: Any, request: Any
    ) -> Any:
        with span(_name(details), kind=SpanKind.CLIENT):
            try:
                call = await continuation(_outgoing(details), request)
                return await call
            except grpc.aio.AioRpcError as exc:
                raise status.from_rpc(exc) from exc


class _Stream(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Callable[[Any, Any], Awaitable[Any]], details: Any, request: Any
    ) -> AsyncIterator[Any]:
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
