"""run, create, start, restart, attach: containers that are made and run, with our streams or without."""

import sys
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import anyio

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import FailedPreconditionError, SlipwayError, UnavailableError
from slipway import exitcode
from slipway.connect import Node, node, runtimed, shim_of
from slipway.containers.batch import each
from slipway.containers.creation import make
from slipway.containers.ending import final_code
from slipway.containers.hold import kept, until_gone
from slipway.containers.stopping import stop
from slipway.options.signals import signal_number
from slipway.output import render
from slipway.streams import conversation, terminal
from slipway.streams.attachment import attached, forward_signals, log_path


async def run(arguments: Namespace) -> int:
    """Run a container; attached, end as it ends."""
    terminal.require_terminal(
        wants_tty=arguments.tty and not arguments.detach, interactive=arguments.interactive
    )
    keys = terminal.detach_keys(arguments.detach_keys)
    async with node(arguments.run_dir) as on:
        sandbox_id, container_id = await make(on, arguments, starts=True)
        async with anyio.create_task_group() as group:
            if not arguments.detach:
                # From here to the end, and while it is removed, no signal ends us before the container.
                await group.start(forward_signals, on, container_id)
            async with kept(on, container_id) if arguments.rm else nullcontext():
                code = await _start(on, container_id)
                if code == 0 and arguments.detach:
                    sys.stdout.write(f"{container_id}\n")
                elif code == 0:
                    code = await attached(
                        on, container_id, tty=arguments.tty, stdin=arguments.interactive, keys=keys
                    )
            if arguments.rm and not arguments.detach and code != conversation.DETACHED:
                await until_gone(on, sandbox_id)
            group.cancel_scope.cancel()
        return max(code, 0)


async def _start(on: Node, container_id: str) -> int:
    """Start it; 0, or docker's code for why it cannot run."""
    try:
        await on.runtime.StartContainer(cri.StartContainerRequest(container_id=container_id))
    except SlipwayError as exc:
        sys.stderr.write(f"slipway: {render.complaint(exc)}\n")
        return exitcode.of_start(exc)
    return 0


async def create(arguments: Namespace) -> int:
    """Make a container that `start` runs."""
    async with node(arguments.run_dir) as on:
        _, container_id = await make(on, arguments, starts=False)
    sys.stdout.write(f"{container_id}\n")
    return 0


async def start(arguments: Namespace) -> int:
    """Run containers that were made, or have ended; attached, end as it ends."""
    if arguments.attach or arguments.interactive:
        if len(arguments.container) > 1:
            message = "start: --attach and --interactive are for one container"
            raise FailedPreconditionError(message)
        return await _start_attached(arguments)
    return await each(arguments.run_dir, arguments.container, _begin)


async def _begin(on: Node, name: str) -> None:
    found = await on.container(name)
    if found.state == cri.CONTAINER_RUNNING:
        return
    if found.state == cri.CONTAINER_CREATED:
        await on.runtime.StartContainer(cri.StartContainerRequest(container_id=found.id))
        return
    async with runtimed(on.run_dir) as backend:
        await backend.StartAgain(pb.StartAgainRequest(container_id=found.id))


async def _start_attached(arguments: Namespace) -> int:
    """As docker: its output from now on, not what it wrote in an earlier run."""
    keys = terminal.detach_keys(arguments.detach_keys)
    stdin = bool(arguments.interactive)
    async with node(arguments.run_dir) as on:
        found = await on.container(arguments.container[0])
        if found.state == cri.CONTAINER_RUNNING:
            return await _join(on, found.id, stdin=stdin, keys=keys)
        log = Path(await log_path(on, found.id))
        start = log.stat().st_size if log.exists() else 0
        async with kept(on, found.id), anyio.create_task_group() as group:
            await group.start(forward_signals, on, found.id)
            await _begin(on, found.id)
            tty = await _has_tty(on, found.id)
            code = await attached(on, found.id, tty=tty, stdin=stdin, keys=keys, start=start)
            group.cancel_scope.cancel()
    return max(code, 0)


async def restart(arguments: Namespace) -> int:
    """Stop containers and run them once more, with what they wrote."""
    signal = signal_number(arguments.signal) if arguments.signal else 0

    async def act(on: Node, name: str) -> None:
        found = await on.container(name)
        async with kept(on, found.id):  # made with --rm it would go between the two
            await stop(on, found.id, signal, arguments.time)
            await _begin(on, found.id)

    return await each(arguments.run_dir, arguments.container, act)


async def attach(arguments: Namespace) -> int:
    """A running container's streams, from now on; its exit code is ours."""
    keys = terminal.detach_keys(arguments.detach_keys)
    async with node(arguments.run_dir) as on:
        found = await on.container(arguments.container)
        if found.state != cri.CONTAINER_RUNNING:
            message = f"container {arguments.container!r} does not run: `slipway start -a` runs it"
            raise FailedPreconditionError(message)
        return await _join(on, found.id, stdin=not arguments.no_stdin, keys=keys, proxies=arguments.sig_proxy)


async def _join(on: Node, container_id: str, *, stdin: bool, keys: bytes, proxies: bool = True) -> int:
    tty = await _has_tty(on, container_id)
    async with (
        kept(on, container_id),
        shim_of(on.run_dir, container_id) as shim,
        anyio.create_task_group() as group,
    ):
        if shim is None:
            message = f"container {container_id}: its shim does not answer: it may have ended"
            raise UnavailableError(message)
        if proxies and not tty:
            await group.start(forward_signals, on, container_id)
        stream = await shim.attach(stdin=stdin)
        told = await conversation.converse(stream, tty=tty, stdin=stdin, keys=keys)
        await stream.close()
        code = 0 if told == conversation.DETACHED else await final_code(on, container_id, told)
        group.cancel_scope.cancel()
    return code


async def _has_tty(on: Node, container_id: str) -> bool:
    try:
        async with runtimed(on.run_dir) as backend:
            address = await backend.PrepareAttach(pb.PrepareAttachRequest(container_id=container_id))
    except FailedPreconditionError:  # it has ended: its log has all
        return False
    return bool(address.tty)
