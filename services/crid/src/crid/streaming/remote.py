"""Exec and attach: between the channels of a client and the socket of a shim."""

import json
from contextlib import AsyncExitStack
from typing import Any

import anyio
import msgspec

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.clients.shim import ShimClient
from common.clients.shimstream import ShimStream
from common.errors import SlipwayError, UnavailableError
from common.observe.log import get_logger
from common.observe.trace import traceparent
from common.turns import Turns
from crid.streaming import status
from crid.streaming.channels import ERROR, RESIZE, STDERR, STDIN, STDOUT, Channels
from crid.streaming.leaving import Leaving
from crid.streaming.wire import ClientGoneError

PREPARE_S = 30.0
CLOSE_S = 60.0
"""How long a client may take to close once it has read all. kubectl's has up to fifty frames in memory that it has not
written yet, and forgets them when the server closes first."""
_SIZE_BOUND = 4096
_log = get_logger("streaming")
Wish = cri.ExecRequest | cri.AttachRequest


class _Size(msgspec.Struct, rename="pascal"):
    width: int
    height: int


def channels_of(wish: Wish) -> set[int]:
    """The channels that a client opens for a request."""
    asked = {STDIN: wish.stdin, STDOUT: wish.stdout, STDERR: wish.stderr, RESIZE: wish.tty}
    return {ERROR} | {channel for channel, wanted in asked.items() if wanted}


async def serve(channels: Channels, wish: Wish, runtimed: Any, leaving: Leaving, creation_s: float) -> None:
    """Run a conversation to its end; a client that goes ends its exec, and leaves an attached container alone."""
    async with anyio.create_task_group() as group:
        group.start_soon(_read, channels, group.cancel_scope)
        with anyio.move_on_after(creation_s) as waiting:
            await channels.ready()
        if not waiting.cancelled_caught:
            try:
                await channels.finish(await _converse(channels, wish, runtimed, leaving))
                await anyio.sleep(CLOSE_S)  # the client closes first, which ends the group
            except ClientGoneError:
                pass
        group.cancel_scope.cancel()


async def _read(channels: Channels, scope: anyio.CancelScope) -> None:
    await channels.run()
    scope.cancel()


async def _converse(channels: Channels, wish: Wish, runtimed: Any, leaving: Leaving) -> bytes:
    """Returns the status for the error channel."""
    try:
        async with AsyncExitStack() as stack:
            address = await _prepare(wish, runtimed)
            shim = await stack.enter_async_context(await ShimClient.connect(address.socket_path))
            stream = await _open(shim, wish, address)
            if isinstance(wish, cri.ExecRequest):
                stack.callback(stream.abort)
            else:
                stack.push_async_callback(leaving.take, wish.container_id, stream)
            code = await _carry(channels, stream, wish, closes_stdin=_closes_stdin(wish, address))
    except SlipwayError as exc:
        _log.info("stream.failed", container_id=wish.container_id, error=exc.message)
        return status.of_error(exc.message, channels.version)
    if isinstance(wish, cri.AttachRequest) and code is not None:
        code = 0  # the container's end is no failure of the attachment
    if code is None:
        return status.of_error(
            f"container {wish.container_id}: its shim cut the stream off; the client was too slow, or the shim ended",
            channels.version,
        )
    return status.of_exit(code, channels.version)


async def _prepare(wish: Wish, runtimed: Any) -> pb.ShimAddress:
    address: pb.ShimAddress
    if isinstance(wish, cri.AttachRequest):
        attach = pb.PrepareAttachRequest(container_id=wish.container_id)
        address = await runtimed.PrepareAttach(attach, timeout=PREPARE_S)
    else:
        command = pb.PrepareExecRequest(
            container_id=wish.container_id, cmd=wish.cmd, tty=wish.tty, stdin=wish.stdin
        )
        address = await runtimed.PrepareExec(command, timeout=PREPARE_S)
    return address


async def _open(shim: ShimClient, wish: Wish, address: pb.ShimAddress) -> ShimStream:
    if isinstance(wish, cri.AttachRequest):
        return await shim.attach(stdin=wish.stdin)
    return await shim.exec_stream(
        address.exec_id, address.process, tty=wish.tty, stdin=wish.stdin, traceparent=traceparent()
    )


def _closes_stdin(wish: Wish, address: pb.ShimAddress) -> bool:
    """Whether the end of the client's input is the end of the process's."""
    return isinstance(wish, cri.ExecRequest) or address.stdin_once


async def _carry(channels: Channels, stream: ShimStream, wish: Wish, *, closes_stdin: bool) -> int | None:
    """Carry bytes both ways until the shim has no more; the exit code, or None when it cut the stream."""
    wanted = channels_of(wish)
    failure: SlipwayError | ClientGoneError | None = None
    async with anyio.create_task_group() as group:
        if STDIN in wanted:
            group.start_soon(_feed, channels, stream, closes_stdin)
        if RESIZE in wanted:
            group.start_soon(_resize, channels, stream)
        try:
            while (piece := await stream.read()) is not None:
                if piece[0] in wanted:
                    await channels.send(*piece)
        except (SlipwayError, ClientGoneError) as exc:
            failure = exc  # raised outside of the group, which would wrap it
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return stream.exit_code


async def _feed(channels: Channels, stream: ShimStream, closes_stdin: bool) -> None:
    turns = Turns()
    try:
        while (data := await channels.receive(STDIN)) is not None:
            await stream.write(data)
            await turns.give()
        if closes_stdin:
            await stream.close_stdin()
    except (UnavailableError, ClientGoneError):
        return  # the process has ended, or the client closed its input with a reset


async def _resize(channels: Channels, stream: ShimStream) -> None:
    """JSON objects behind each other, cut anywhere; what is none ends the resizing only."""
    text = ""
    decoder = json.JSONDecoder()
    turns = Turns()
    try:
        while (data := await channels.receive(RESIZE)) is not None:
            text += data.decode("ascii")
            await turns.give()
            while text := text.lstrip():
                try:
                    value, end = decoder.raw_decode(text)
                except json.JSONDecodeError:
                    if len(text) > _SIZE_BOUND:
                        raise
                    break
                text = text[end:]
                size = msgspec.convert(value, _Size)
                await stream.resize(size.width & 0xFFFF, size.height & 0xFFFF)
                await turns.give()
    except (ValueError, msgspec.ValidationError) as exc:
        _log.info("stream.resize_refused", error=str(exc))
    except (UnavailableError, ClientGoneError):
        return
