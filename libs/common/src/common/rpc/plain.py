"""A gRPC channel over a Unix socket that raises our errors, and no more.

Commands that live for a moment use it as it is: common.rpc.channel adds the traces, whose import takes longer than
a call.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import grpc

from common.errors import UnavailableError
from common.rpc import caller, status

PATIENCE_S = 10.0
"""How long a call waits for a service that is not there: longer than one that died takes to come back."""
MAX_MESSAGE_BYTES = 64 << 20
"""Above the kubelet's 16 MiB, so that no list is cut."""
OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
]


class Around:
    """What surrounds each call; here only who has asked for it."""

    def headers(self) -> dict[str, str]:
        """Metadata to send along."""
        asked = caller.current.get()
        return {caller.HEADER: asked} if asked else {}

    def unary(self, name: str) -> AbstractContextManager[object]:
        """Entered for as long as a call with one answer lasts."""
        return nullcontext()


def plain_channel(
    socket: str, *, patience_s: float = PATIENCE_S, around: Around | None = None
) -> grpc.aio.Channel:
    """A channel to one service.

    A call waits for a service that is not up yet, within its deadline and at most `patience_s`; then it raises
    UnavailableError.
    """
    peer = _Peer(socket, patience_s, around or Around())
    options = [*OPTIONS, ("grpc.default_authority", "localhost"), ("grpc.initial_reconnect_backoff_ms", 100)]
    options += [("grpc.max_reconnect_backoff_ms", 1000), ("grpc.primary_user_agent", Path(sys.argv[0]).name)]
    interceptors = [_Unary(peer), _Stream(peer), _Upload(peer)]
    peer.channel = grpc.aio.insecure_channel(f"unix:{socket}", options=options, interceptors=interceptors)
    return peer.channel


class _Peer:
    """The service at the other end."""

    channel: grpc.aio.Channel

    def __init__(self, socket: str, patience_s: float, around: Around) -> None:
        self._socket = socket
        self._patience_s = patience_s
        self.around = around

    async def ready(self, deadline_s: float | None) -> None:
        """Wait until it can be called; not beyond the call's own deadline, which is then the call's to tell."""
        if self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return
        if deadline_s is not None and deadline_s <= self._patience_s:
            return
        try:
            async with asyncio.timeout(self._patience_s):
                await self.channel.channel_ready()
        except TimeoutError as exc:
            message = f"{self._socket}: nobody has answered for {self._patience_s:g} s"
            raise UnavailableError(message) from exc

    def outgoing(self, details: Any) -> Any:
        """The call as it is sent."""
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *self.around.headers().items())
        return details._replace(metadata=metadata, wait_for_ready=True)


async def _whole(call: Any) -> Any:
    """The answer of a call, which ends when its caller is cancelled.

    gRPC would raise another CancelledError than the one it got, which a scope with a time limit does not know as its own.
    """
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        call.cancel()
        raise


def _name(details: Any) -> str:
    method = details.method
    return (method.decode() if isinstance(method, bytes) else str(method)).strip("/")


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, peer: _Peer) -> None:
        self._peer = peer

    async def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Awaitable[Any]], details: Any, request: Any
    ) -> Any:
        with self._peer.around.unary(_name(details)):
            await self._peer.ready(details.timeout)
            try:
                return await _whole(await continuation(self._peer.outgoing(details), request))
            except grpc.aio.AioRpcError as exc:
                raise status.from_rpc(exc) from exc


class _Stream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, peer: _Peer) -> None:
        self._peer = peer

    async def intercept_unary_stream(
        self, continuation: Callable[[Any, Any], Awaitable[Any]], details: Any, request: Any
    ) -> AsyncIterator[Any]:
        await self._peer.ready(details.timeout)
        call = await continuation(self._peer.outgoing(details), request)
        return _items(call)


class _Upload(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, peer: _Peer) -> None:
        self._peer = peer

    async def intercept_stream_unary(
        self, continuation: Callable[[Any, Any], Awaitable[Any]], details: Any, requests: Any
    ) -> Any:
        await self._peer.ready(details.timeout)
        return _Answer(await continuation(self._peer.outgoing(details), requests))


class _Answer:
    """A call that raises our errors when it is awaited; gRPC takes no bare answer from this interceptor."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            return (yield from self._call.__await__())
        except grpc.aio.AioRpcError as exc:
            raise status.from_rpc(exc) from exc


async def _items(call: Any) -> AsyncIterator[Any]:
    try:
        async for item in call:
            yield item
    except grpc.aio.AioRpcError as exc:
        raise status.from_rpc(exc) from exc
    finally:
        call.cancel()
