"""Joins our standard streams with those of a process under a shim."""

from contextlib import nullcontext

import anyio

from common.clients.shimstream import ShimStream
from common.errors import UnavailableError
from slipway.streams import terminal

DETACHED = -1
"""The person left; the process goes on."""
JOIN_S = 0.02
"""How long what is in the log already may be on its way in the stream."""


async def converse(
    stream: ShimStream, *, tty: bool, stdin: bool, keys: bytes, said: bytes = b""
) -> int | None:
    """Carry bytes both ways until the process ends; returns its exit code, None when the stream was cut.

    Args:
        stream: the process's side.
        tty: it has a terminal.
        stdin: our input is its input.
        keys: what leaves a terminal; none when empty.
        said: what it had written, as its log says, when the stream began.
    """
    code: int | None = None
    with terminal.session(typing=stdin) if tty else nullcontext():
        async with anyio.create_task_group() as group:
            scope = group.cancel_scope
            left = anyio.Event()
            if stdin:
                group.start_soon(feed, stream, left, scope, keys if tty else b"")
            if tty:
                group.start_soon(_follow_size, stream)
            if said:
                await terminal.put(1, await _joined(stream, said))
            async for where, data in stream:
                await terminal.put(where, data)
            code = stream.exit_code
            scope.cancel()
    return DETACHED if left.is_set() else code


async def _joined(stream: ShimStream, said: bytes) -> bytes:
    """The beginning from the log and from the stream, without what both have.

    The log was read a moment after the stream began, so its end may be the stream's beginning.
    """
    early = b""
    with anyio.move_on_after(JOIN_S):
        async for _, data in stream:
            early += data
    both = next(n for n in range(min(len(said), len(early)), -1, -1) if said.endswith(early[:n]))
    return said + early[both:]


async def feed(stream: ShimStream, left: anyio.Event, scope: anyio.CancelScope, keys: bytes) -> None:
    """Our input to the process, then its end; the detach keys leave, when there are any."""
    watch = terminal.DetachKeys(keys)
    try:
        async for data in terminal.typed():
            passed, found = watch.split(data) if keys else (data, False)
            await stream.write(passed)
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
