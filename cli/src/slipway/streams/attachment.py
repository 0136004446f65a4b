"""Our streams and signals are a container's until it ends."""

import signal
from contextlib import nullcontext

import anyio
from anyio.abc import TaskStatus

from common.api.cri.v1 import api_pb2 as cri
from common.clients.shim import ShimClient
from common.clients.shimstream import ShimStream
from common.errors import FailedPreconditionError, NotFoundError, SlipwayError, UnavailableError
from slipway.connect import Node, shim_of
from slipway.containers.ending import final_code
from slipway.output import logfile
from slipway.streams import conversation, terminal

POLL_S = 0.03
"""How soon output is shown; its end is told by the shim."""
PATIENCE = 3
"""Signals that a container may ignore before it is killed."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


async def attached(
    on: Node, container_id: str, *, tty: bool, stdin: bool, keys: bytes, start: int = 0
) -> int:
    """Its streams are ours until it ends; returns its exit code, or conversation.DETACHED.

    Args:
        on: its node.
        container_id: its id; it was started just now.
        tty: it has a terminal.
        stdin: our input is its input.
        keys: what leaves a terminal.
        start: the size that its log had before the start, for one that was started again.
    """
    code: int | None = None
    async with shim_of(on.run_dir, container_id) as shim:
        if tty and (stream := await _attach(shim, stdin=stdin)):
            log = logfile.LogFile(await log_path(on, container_id), start)
            said = b"".join(record.output for record in log.records())
            log.close()
            code = await conversation.converse(stream, tty=True, stdin=stdin, said=said, keys=keys)
            await stream.close()
        else:
            with terminal.session(typing=False) if tty else nullcontext():
                code = await _follow_log(on, shim, container_id, feeds=stdin, start=start)
    if code == conversation.DETACHED:
        return code
    return await final_code(on, container_id, code)


async def log_path(on: Node, container_id: str) -> str:
    """Where its log is."""
    status = cri.ContainerStatusRequest(container_id=container_id)
    return str((await on.runtime.ContainerStatus(status)).status.log_path)


async def _attach(shim: ShimClient | None, *, stdin: bool) -> ShimStream | None:
    """The live stream, or None when it has ended already: the log then has all."""
    if shim is None:
        return None
    try:
        return await shim.attach(stdin=stdin)
    except (FailedPreconditionError, UnavailableError, NotFoundError):
        return None


async def _follow_log(
    on: Node, shim: ShimClient | None, container_id: str, *, feeds: bool, start: int
) -> int | None:
    """Show the log from its first byte, which an attach would miss, until the shim tells of the end."""
    log = logfile.LogFile(await log_path(on, container_id), start)
    ended = anyio.Event()
    codes: list[int] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_watch_end, on, shim, container_id, codes, ended)
        if feeds and (stream := await _attach(shim, stdin=True)):
            group.start_soon(conversation.feed, stream, anyio.Event(), group.cancel_scope, b"")
            group.start_soon(_drop_output, stream)
        last = False
        while not last:
            last = ended.is_set()
            for record in log.records():
                logfile.show(record)
            logfile.flush()
            with anyio.move_on_after(POLL_S):
                await ended.wait()
        group.cancel_scope.cancel()
    log.close()
    return codes[0] if codes else None


async def _drop_output(stream: ShimStream) -> None:
    """The log has it; a reader that is behind would be cut off."""
    async for _ in stream:
        pass


async def _watch_end(
    on: Node, shim: ShimClient | None, container_id: str, codes: list[int], ended: anyio.Event
) -> None:
    try:
        if shim is not None:
            async for event in shim.subscribe():
                if event.get("event") == "exit":
                    codes.append(int(event["exit_code"]))
                    break
    except SlipwayError:
        pass  # the shim is gone; runtimed knows
    if not codes:
        codes.append(await final_code(on, container_id))
    ended.set()


async def forward_signals(
    on: Node, container_id: str, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """What ends us goes to the container instead, until we are cancelled."""
    count = 0
    with anyio.open_signal_receiver(*FORWARDED) as signals:
        task_status.started()
        async for number in signals:
            count += number in (signal.SIGINT, signal.SIGTERM)
            try:
                async with shim_of(on.run_dir, container_id) as shim:
                    if shim is not None and count < PATIENCE:
                        await shim.kill(number)
                        continue
                if count >= PATIENCE:
                    stop = cri.StopContainerRequest(container_id=container_id, timeout=0)
                    await on.runtime.StopContainer(stop)
            except SlipwayError:
                continue  # it has ended meanwhile
