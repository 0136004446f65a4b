"""GET /metrics on a Unix socket, and on a TCP address when there is one."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import h11
from anyio.abc import ByteStream

from common.accepting import accept
from common.observe import metrics
from common.observe.log import get_logger
from common.sys.reading import hold

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CLIENT_S = 10.0
MAX_CLIENTS = 16
AGAIN_S = 5.0
_READ_BYTES = 4096
_log = get_logger("metrics")
Listen = Callable[[], Awaitable[Any]]


async def serve(path: str, address: str) -> None:
    """Serve until cancelled. Metrics are worth no service: an address that cannot be had is tried again.

    Args:
        path: of the Unix socket, made with mode 0600.
        address: HOST:PORT; "" for none.
    """
    slots = anyio.Semaphore(MAX_CLIENTS)
    async with anyio.create_task_group() as group:
        group.start_soon(_keep, partial(anyio.create_unix_listener, path, mode=0o600), path, slots)
        if address:
            host, _, port = address.rpartition(":")
            listen = partial(anyio.create_tcp_listener, local_host=host.strip("[]"), local_port=int(port))
            group.start_soon(_keep, listen, address, slots)


async def _keep(listen: Listen, where: str, slots: anyio.Semaphore) -> None:
    while True:
        try:
            listener = await listen()
        except OSError as exc:
            _log.warning("metrics.waiting", address=where, error=str(exc))
            await anyio.sleep(AGAIN_S)
            continue
        async with listener, anyio.create_task_group() as group:
            await accept(partial(listener.serve, partial(_client, slots), group), where)


async def _client(slots: anyio.Semaphore, stream: ByteStream) -> None:
    """One request of one client; who is slow, speaks no HTTP/1.1 or is one too many is left."""
    hold(stream)
    async with stream:
        try:
            slots.acquire_nowait()
        except anyio.WouldBlock:
            return
        try:
            with anyio.move_on_after(CLIENT_S):
                await _answer(stream)
        except (anyio.BrokenResourceError, anyio.EndOfStream, h11.ProtocolError, OSError) as exc:
            _log.debug("metrics.client", error=str(exc))
        except Exception:  # noqa: BLE001 - the border: a gauge that cannot be read is worth no service either
            _log.exception("metrics.failed")
        finally:
            slots.release()


async def _answer(stream: ByteStream) -> None:
    http = h11.Connection(h11.SERVER)
    request: h11.Request | None = None
    while not isinstance(event := http.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive(_READ_BYTES))
        elif isinstance(event, h11.Request):
            request = event
        elif not isinstance(event, h11.Data):
            return
    if request is None:
        return
    found = request.target.partition(b"?")[0] == b"/metrics" and request.method == b"GET"
    body = await metrics.render() if found else b"only GET /metrics is answered\n"
    kind = CONTENT_TYPE if found else "text/plain; charset=utf-8"
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")]
    answer = http.send(h11.Response(status_code=200 if found else 404, headers=headers))
    await stream.send((answer or b"") + (http.send(h11.Data(data=body)) or b""))
    http.send(h11.EndOfMessage())
