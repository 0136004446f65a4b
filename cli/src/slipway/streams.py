"""Joins our standard streams with those of a process under a shim."""

import anyio

from common.clients.shim import ShimStream
from common.errors import UnavailableError
from slipway import terminal

DETACHED = -1
"""The person left; the process goes on."""


async def converse(stream: ShimStream, *, tty: bool, stdin: bool) -> int | None:
    """Carry bytes both ways until the process ends; returns its exit code, None when the stream was cut."""
    code: int | None = None
    with terminal.raw(wanted=tty and stdin):
        async with anyio.create_task_group() as group:
            scope = group.cancel_scope
            left = anyio.Event()
            if stdin:
                group.start_soon(feed, stream, left, scope, tty)
            if tty:
                group.start_soon(_follow_size, stream)
            async for where, data in stream:
                await terminal.put(where, data)
            code = stream.exit_code
            scope.cancel()
    return DETACHED if left.is_set() else code


async def feed(stream: ShimStream, left: anyio.Event, scope: anyio.CancelScope, tty: bool) -> None:
    """Our input to the process, then its end; the detach keys leave."""
    try:
        async for data in terminal.typed():
            keys, found, _ = data.partition(terminal.DETACH) if tty else (data, b"", b"")
            await stream.write(keys)
            if found:
                left.set()
                scope.cancel()
                return
        await stream.close_stdin()
    except UnavailableError:
        return  # it has ended and reads no more; the reader of its output sees how


async def _follow_size(stream: ShimStream) -> None:
    columns, rows = terminal.size()
    try:
        # Two sizes, so that a program which drew before we were there draws again, as docker does it.
        await stream.resize(columns, rows + 1)
        await stream.resize(columns, rows)
        async for columns, rows in terminal.sizes():
            await stream.resize(columns, rows)
    except UnavailableError:
        return
