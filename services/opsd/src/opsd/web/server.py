"""HTTP/1.1 on sockets: reads requests, bounded, and writes what the application answers."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import anyio
import h11
from anyio.abc import ByteStream, Listener

from common.observe.log import get_logger

HEAD_S = 20.0
"""How long a client may take for a request, or idle between two."""
WRITE_S = 20.0
"""A client that takes nothing for so long is left."""
MAX_BODY_BYTES = 16 << 10
MAX_CLIENTS = 256
AGAIN_S = 0.2
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
    """Serves one application on several listeners."""

    def __init__(self, application: Application, headers: dict[str, str]) -> None:
        self._application = application
        self._headers = headers
        self._clients = 0

    async def serve(self, listener: Listener[Any], *, local: bool) -> None:
        """Serve until cancelled."""

        async def client(stream: ByteStream) -> None:
            await self._client(stream, local=local)

        async with listener:
            while True:
                try:
                    await listener.serve(client)
                except* OSError as errors:
                    _log.warning("http.accept", error=str(errors.exceptions[0]))
                await anyio.sleep(AGAIN_S)

    async def _client(self, stream: ByteStream, *, local: bool) -> None:
        self._clients += 1
        try:
            async with stream:
                if self._clients <= MAX_CLIENTS:
                    await self._talk(stream, local=local)
        except* _GONE as errors:
            _log.debug("http.client", error=str(errors.exceptions[0]))
        except* Exception:  # noqa: BLE001 - the border: one client's trouble is not another's
            _log.exception("http.bug")
        finally:
            self._clients -= 1

    async def _talk(self, stream: ByteStream, *, local: bool) -> None:
        http = h11.Connection(h11.SERVER)
        while True:
            with anyio.move_on_after(HEAD_S) as reading:
                request = await _read(http, stream, local=local)
            if reading.cancelled_caught or request is None:
                return
            await self._write(http, stream, request, await self._application(request))
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()

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
    with anyio.fail_after(WRITE_S):
        await stream.send(data)


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
                return None
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
