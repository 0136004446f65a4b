"""A listening socket that was handed over: gRPC for Python can adopt none, so its connections are joined to a server's own.

What connects while the service is down or starts waits in the socket, and is refused never.
"""

import socket
from contextlib import suppress
from functools import partial

import anyio
from anyio.abc import SocketAttribute, SocketListener, SocketStream

from common.accepting import accept
from common.sys.reading import hold

_BYTES = 65_536


async def relay(listener: socket.socket, path: str, stopping: anyio.Event) -> None:
    """Join each connection to one of the server at `path`; when stopping, take no more. Ends when all have ended."""
    async with await SocketListener.from_socket(listener) as source, anyio.create_task_group() as joints:
        with anyio.CancelScope() as accepting:
            joints.start_soon(_end, accepting, stopping)
            await accept(partial(source.serve, partial(_join, path), joints), "handed over")


async def _end(accepting: anyio.CancelScope, stopping: anyio.Event) -> None:
    await stopping.wait()
    accepting.cancel()


async def _join(path: str, near: SocketStream) -> None:
    hold(near)
    async with near:
        try:
            far = await anyio.connect_unix(path)
        except OSError:
            return  # the server has stopped; whoever connected sees its connection end
        async with far, anyio.create_task_group() as both:
            both.start_soon(_pump, near, far)
            both.start_soon(_pump, far, near)


async def _pump(source: SocketStream, sink: SocketStream) -> None:
    """Until either end is closed; then the other is, too: HTTP/2 closes both ways at once."""
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            await sink.send(await source.receive(_BYTES))
    with suppress(OSError):
        sink.extra(SocketAttribute.raw_socket).shutdown(socket.SHUT_RDWR)  # noqa: S610 - no Django
