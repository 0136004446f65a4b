"""Accepts the clients of the streaming URLs, and gives each to its conversation."""

import ipaddress
import math
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener

from common.accepting import accept
from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import SlipwayError, UnavailableError
from common.observe.log import get_logger
from common.sys.reading import hold
from crid import meters
from crid.settings import Settings
from crid.streaming import portforward, remote, spdy, websocket
from crid.streaming.certificate import Certificate
from crid.streaming.channels import Channels, SpdyChannels, WebSocketChannels
from crid.streaming.http import Exchange, RefusedError
from crid.streaming.leaving import Leaving
from crid.streaming.negotiate import TUNNEL, Agreed, negotiate
from crid.streaming.tokens import Tokens, Wish
from crid.streaming.websocket import Tunnel, WebSocket
from crid.streaming.wire import ClientGoneError, Wire

HEAD_S = 10.0
MAX_CLIENTS = 1000
_KINDS: dict[str, type[Wish]] = {
    "exec": cri.ExecRequest,
    "attach": cri.AttachRequest,
    "portforward": cri.PortForwardRequest,
}
_log = get_logger("streaming")


class StreamingServer:
    """The HTTP server behind the URLs of Exec, Attach and PortForward; made by `listen`."""

    def __init__(
        self, settings: Settings, runtimed: Any, tcp: Any, certificate: Certificate | None, base_url: str
    ) -> None:
        self._settings = settings
        self._runtimed = runtimed
        self._tcp = tcp
        self._certificate = certificate
        self._base_url = base_url
        self._tokens = Tokens()
        self._leaving = Leaving()
        self._clients = 0

    def url(self, wish: Wish) -> str:
        """A URL for one client, once, within a minute.

        Raises:
            ResourceExhaustedError: too many are outstanding.
        """
        return f"{self._base_url}/{_kind(wish)}/{self._tokens.issue(wish)}"

    async def serve(self) -> None:
        """Serve until cancelled."""
        async with self._tcp, anyio.create_task_group() as group:
            listener = self._tcp
            if self._certificate is not None:
                listener = TLSListener(
                    self._tcp, self._certificate.context, standard_compatible=False, handshake_timeout=HEAD_S
                )
                group.start_soon(self._certificate.keep_fresh, listener)
            await accept(partial(listener.serve, self._client, group), self._base_url)

    async def _client(self, stream: ByteStream) -> None:
        hold(stream)
        self._clients += 1
        try:
            async with stream:
                await self._talk(Wire(stream))
        except ClientGoneError:
            return
        except anyio.get_cancelled_exc_class():
            if anyio.current_effective_deadline() == -math.inf:
                raise
            # A gRPC call that is cancelled raises a cancellation of its own, which no scope takes for its own:
            # it would end the task group, and with it the server.
            _log.debug("stream.cancelled")
        except Exception:  # noqa: BLE001 - the border: one client's trouble is not another's
            _log.exception("stream.bug")
        finally:
            self._clients -= 1

    async def _talk(self, wire: Wire) -> None:
        exchange = Exchange(wire)
        try:
            if self._clients > MAX_CLIENTS:
                raise RefusedError(503, f"{MAX_CLIENTS} clients are being served; try again later")
            with anyio.move_on_after(HEAD_S) as reading:
                whole = await exchange.read()
            if reading.cancelled_caught or not whole:
                return
            wish = self._wish(exchange.path)
            agreed = negotiate(exchange, forwards=isinstance(wish, cri.PortForwardRequest))
            netns_path = await self._netns_path(wish)
        except RefusedError as refusal:
            meters.REFUSED.labels(refusal.status).inc()
            _log.info("stream.refused", status=refusal.status, error=str(refusal))
            await exchange.refuse(refusal)
            return
        await exchange.switch(agreed.protocol)
        with meters.served(_kind(wish)):
            await self._serve(wire, wish, agreed, netns_path)

    async def _serve(self, wire: Wire, wish: Wish, agreed: Agreed, netns_path: str) -> None:
        ping = websocket.PING if agreed.websocket else spdy.PING
        async with anyio.create_task_group() as group:
            group.start_soon(wire.watch, self._settings.stream_idle_timeout_s, ping, group.cancel_scope)
            if isinstance(wish, cri.PortForwardRequest):
                await self._forward(wire, wish, agreed, netns_path)
            else:
                channels = _channels(wire, wish, agreed)
                creation_s = self._settings.stream_creation_timeout_s
                await remote.serve(channels, wish, self._runtimed, self._leaving, creation_s)
            group.cancel_scope.cancel()

    def _wish(self, path: str) -> Wish:
        kind, _, token = path.removeprefix("/").partition("/")
        wish = self._tokens.take(token) if kind in _KINDS else None
        if wish is None or not isinstance(wish, _KINDS[kind]):
            raise RefusedError(404, "this URL is unknown, was used before or is more than a minute old")
        return wish

    async def _netns_path(self, wish: Wish) -> str:
        if not isinstance(wish, cri.PortForwardRequest):
            return ""
        request = pb.PreparePortForwardRequest(pod_sandbox_id=wish.pod_sandbox_id)
        try:
            network = await self._runtimed.PreparePortForward(request, timeout=remote.PREPARE_S)
        except SlipwayError as exc:
            raise RefusedError(503, exc.message) from exc
        return str(network.netns_path)

    async def _forward(
        self, wire: Wire, wish: cri.PortForwardRequest, agreed: Agreed, netns_path: str
    ) -> None:
        creation_s = self._settings.stream_creation_timeout_s
        if not agreed.websocket:
            await portforward.serve_spdy(wire, netns_path, creation_s)
        elif agreed.protocol == TUNNEL:
            await portforward.serve_spdy(Tunnel(WebSocket(wire)), netns_path, creation_s)
        else:
            await portforward.serve_websocket(WebSocket(wire), netns_path, list(wish.port))


def _kind(wish: Wish) -> str:
    return next(kind for kind, cls in _KINDS.items() if isinstance(wish, cls))


def _channels(wire: Wire, wish: cri.ExecRequest | cri.AttachRequest, agreed: Agreed) -> Channels:
    if agreed.websocket:
        return WebSocketChannels(WebSocket(wire), agreed.version, text=agreed.text)
    return SpdyChannels(wire, agreed.version, remote.channels_of(wish))


async def listen(settings: Settings, runtimed: Any) -> StreamingServer:
    """Bind the address of the settings.

    Raises:
        InvalidArgumentError: a setting of TLS does not work.
        UnavailableError: the address cannot be bound.
    """
    cert, key = settings.stream_tls_cert, settings.stream_tls_key
    certificate = Certificate(cert, key) if cert or key else None
    try:
        tcp = await anyio.create_tcp_listener(
            local_host=settings.stream_address, local_port=settings.stream_port
        )
    except OSError as exc:
        where = f"{settings.stream_address}:{settings.stream_port}"
        raise UnavailableError(f"stream_address {where}: {exc.strerror or exc}") from exc
    port = tcp.extra(SocketAttribute.local_port)  # noqa: S610 - no Django
    scheme = "https" if certificate else "http"
    base_url = f"{scheme}://{_host(settings.stream_address)}:{port}"
    return StreamingServer(settings, runtimed, tcp, certificate, base_url)


def _host(address: str) -> str:
    """The address as a URL has it; a wildcard is reached by loopback."""
    with suppress(ValueError):
        parsed = ipaddress.ip_address(address)
        if parsed.is_unspecified:
            return "[::1]" if parsed.version == 6 else "127.0.0.1"
        return f"[{address}]" if parsed.version == 6 else address
    return address
