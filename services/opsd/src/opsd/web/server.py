"""HTTP/1.1 on sockets: reads requests, bounded, and writes what the application answers."""

import socket
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import anyio
import h11
from anyio.abc import ByteStream, Listener, SocketAttribute

from common.accepting import accept
from common.observe.log import get_logger
from common.sys.reading import hold
from opsd import meters

REQUEST_S = 10.0
"""How long a client may take for a whole request, or idle between two."""
WRITE_S = 10.0
"""A client that takes nothing for so long is left; a page comes again by itself."""
MAX_HEAD_BYTES = 16 << 10
MAX_BODY_BYTES = 16 << 10
MAX_CLIENTS = 256
MAX_CLIENTS_OF_ADDRESS = 64
"""A browser has six connections, or is one of many behind a proxy. The Unix socket counts as an address."""
KERNEL_BYTES = 128 << 10
"""What the kernel may keep for a client that is slow; it takes twice as much."""
FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_READ_BYTES = 16 << 10
_GONE = (
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    OSError,
    h11.ProtocolError,
)
"""A client that goes, takes nothing or speaks no HTTP; of a stream it comes in the group of its tasks."""
_log = get_logger("http")


@dataclass(frozen=True)
class Request:
    """One request; names of headers are in small letters."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    local: bool
    """It came by the Unix socket."""


@dataclass(frozen=True)
class Reply:
    """What is answered: a body, or a stream of pieces until either side ends it."""

    status: int = 200
    body: bytes = b""
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    stream: AsyncGenerator[bytes, None] | None = None


Application = Callable[[Request], Awaitable[Reply]]


class Server:
    """Serves one application on several listeners; connections are bounded per address and in all."""

    def __init__(self, application: Application, headers: dict[str, str]) -> None:
        self._application = application
        self._headers = headers
        self._clients: Counter[str] = Counter()

    async def serve(self, listener: Listener[Any], *, local: bool) -> None:
        """Serve until cancelled."""

        async def client(stream: ByteStream) -> None:
            hold(stream)
            raw = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - no Django
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
            await self._client(stream, local=local)

        async with listener, anyio.create_task_group() as group:
            await accept(partial(listener.serve, client, group), "local" if local else "page")

    async def _client(self, stream: ByteStream, *, local: bool) -> None:
        address = "local" if local else str(stream.extra(SocketAttribute.remote_address)[0])  # noqa: S610 - no Django
        self._clients[address] += 1
        try:
            async with stream:
                if self._clients.total() > MAX_CLIENTS or self._clients[address] > MAX_CLIENTS_OF_ADDRESS:
                    meters.REFUSED.inc()
                    await _send(stream, FULL)
                else:
                    await self._talk(stream, local=local)
        except* _GONE as errors:
            _log.debug("http.client", error=str(errors.exceptions[0]))
        except* Exception:  # noqa: BLE001 - the border: one client's trouble is not another's
            _log.exception("http.bug")
        finally:
            self._clients[address] -= 1
            self._clients += Counter()  # keeps no address that is gone

    async def _talk(self, stream: ByteStream, *, local: bool) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        while True:
            try:
                with anyio.fail_after(REQUEST_S):
                    request = await _read(http, stream, local=local)
            except h11.RemoteProtocolError as exc:
                await self._refuse(http, stream, exc)
                return
            if request is None:
                return
            await self._write(http, stream, request, await self._application(request))
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()

    async def _refuse(self, http: h11.Connection, stream: ByteStream, why: h11.RemoteProtocolError) -> None:
        if http.our_state is h11.IDLE or http.our_state is h11.SEND_RESPONSE:
            headers = [*self._headers.items(), ("Content-Length", "0"), ("Connection", "close")]
            answer = h11.Response(status_code=why.error_status_hint, headers=headers)
            await _send(stream, http.send(answer) or b"")

    async def _write(self, http: h11.Connection, stream: ByteStream, request: Request, reply: Reply) -> None:
        headers = {**self._headers, "Content-Type": reply.kind, **reply.headers}
        if reply.stream is None and reply.status != 304:
            headers["Content-Length"] = str(len(reply.body))
        head = http.send(h11.Response(status_code=reply.status, headers=list(headers.items()))) or b""
        body = reply.body if request.method != "HEAD" else b""
        if reply.stream is None:
            data = (http.send(h11.Data(data=body)) or b"") if body else b""
            await _send(stream, head + data + (http.send(h11.EndOfMessage()) or b""))
            return
        await _send(stream, head)
        async with anyio.create_task_group() as group:
            group.start_soon(_watch, stream, group.cancel_scope)
            async with aclosing(reply.stream) as pieces:  # a page that has gone is forgotten now
                async for piece in pieces:
                    await _send(stream, http.send(h11.Data(data=piece)) or b"")
            group.cancel_scope.cancel()


async def _watch(stream: ByteStream, scope: anyio.CancelScope) -> None:
    """End a stream whose reader has gone."""
    try:
        await stream.receive(1)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError) as exc:
        _log.debug("http.gone", error=str(exc))
    scope.cancel()


async def _send(stream: ByteStream, data: bytes) -> None:
    try:
        with anyio.fail_after(WRITE_S):
            await stream.send(data)
    except TimeoutError:
        meters.LEFT.inc()
        raise


async def _read(http: h11.Connection, stream: ByteStream, *, local: bool) -> Request | None:
    head: h11.Request | None = None
    body = b""
    while not isinstance(event := http.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            try:
                http.receive_data(await stream.receive(_READ_BYTES))
            except anyio.EndOfStream:
                return None
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY_BYTES:
                raise h11.RemoteProtocolError(f"a body of more than {MAX_BODY_BYTES} bytes", 413)
        else:
            return None
    if head is None:
        return None
    try:
        target = urlsplit(head.target.decode("latin-1"))
    except ValueError:
        return None
    return Request(
        method=head.method.decode(),
        path=unquote(target.path),
        query=dict(parse_qsl(target.query)),
        headers={name.decode().lower(): value.decode("latin-1") for name, value in head.headers},
        body=body,
        local=local,
    )
