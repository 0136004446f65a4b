"""run: a container in a pod of its own, attached or not."""

import signal
import sys
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import anyio
from anyio.abc import TaskStatus

from common.api.cri.v1 import api_pb2 as cri
from common.clients.shim import ShimClient, ShimStream
from common.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    SlipwayError,
    UnavailableError,
)
from slipway import exitcode, logfile, render, request, streams, terminal
from slipway.commands.images import fetch
from slipway.connect import TIMEOUT_S, Node, log_root, node, shim_of
from slipway.removal import remove, remove_pod
from slipway.waiting import final_code

POLL_S = 0.03
"""How soon output is shown; its end is told by the shim."""
PATIENCE = 3
"""Signals that a container may ignore before it is killed."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


async def run(arguments: Namespace) -> int:
    """Run a container; attached, end as it ends."""
    terminal.require_terminal(
        wants_tty=arguments.tty and not arguments.detach, interactive=arguments.interactive
    )
    name = request.name_of(arguments)
    async with node(arguments.run_dir) as on:
        config = request.sandbox(arguments, name, log_root(arguments.run_dir))
        request.container(arguments, name, arguments.image)  # refuses wrong options before anything is made
        await _refuse_taken(on, name)
        image_id = await _image(on, arguments)
        sandbox_id, container_id = await _create(on, arguments, name, config, image_id)
        async with anyio.create_task_group() as group:
            if not arguments.detach:
                # From here to the end, and while it is removed, no signal ends us before the container.
                await group.start(_forward_signals, on, container_id)
            code = await _start(on, container_id)
            if code == 0 and arguments.detach:
                sys.stdout.write(f"{container_id}\n")
                return 0
            if code == 0:
                code = await _attached(on, arguments, container_id)
            if arguments.rm and code != streams.DETACHED:
                await remove(on, container_id, sandbox_id)
            group.cancel_scope.cancel()
        return max(code, 0)


async def _refuse_taken(on: Node, name: str) -> None:
    found = (await on.runtime.ListContainers(cri.ListContainersRequest())).containers
    if any(c.metadata.name == name for c in found):
        message = f"a container {name!r} exists: choose another --name, or `slipway rm {name}` first"
        raise AlreadyExistsError(message)


async def _image(on: Node, arguments: Namespace) -> str:
    spec = cri.ImageSpec(image=arguments.image)
    found = await on.images.ImageStatus(cri.ImageStatusRequest(image=spec))
    if found.HasField("image"):
        return str(found.image.id)
    return (await fetch(arguments.run_dir, arguments.image)).id


async def _create(
    on: Node, arguments: Namespace, name: str, config: cri.PodSandboxConfig, image_id: str
) -> tuple[str, str]:
    """The sandbox and the container; nothing of them when one fails."""
    Path(config.log_directory).mkdir(parents=True, mode=0o750, exist_ok=True)
    sandbox_id = ""
    try:
        wanted = cri.RunPodSandboxRequest(config=config, runtime_handler=arguments.handler)
        sandbox_id = (await on.runtime.RunPodSandbox(wanted)).pod_sandbox_id
        create = cri.CreateContainerRequest(
            pod_sandbox_id=sandbox_id,
            config=request.container(arguments, name, image_id),
            sandbox_config=config,
        )
        container_id = (await on.runtime.CreateContainer(create)).container_id
    except BaseException:
        with anyio.CancelScope(shield=True), anyio.move_on_after(TIMEOUT_S):
            await remove_pod(on, sandbox_id, config.metadata.uid)
        raise
    return sandbox_id, container_id


async def _start(on: Node, container_id: str) -> int:
    """Start it; 0, or docker's code for why it cannot run."""
    try:
        start = cri.StartContainerRequest(container_id=container_id)
        await on.runtime.StartContainer(start)
    except SlipwayError as exc:
        sys.stderr.write(f"slipway: {render.sentence(exc.message)}\n")
        return exitcode.of_start(exc)
    return 0


async def _attached(on: Node, arguments: Namespace, container_id: str) -> int:
    """Its streams are ours until it ends; returns its exit code."""
    code: int | None = None
    stdin = bool(arguments.interactive)
    async with shim_of(arguments.run_dir, container_id) as shim:
        if arguments.tty and (stream := await _attach(shim, stdin=stdin)):
            log = await _log(on, container_id)
            said = b"".join(logfile.content(record)[2] for record in log.records())
            log.close()
            code = await streams.converse(stream, tty=True, stdin=stdin, said=said)
            await stream.close()
        else:
            with terminal.session(typing=False) if arguments.tty else nullcontext():
                code = await _follow_log(on, shim, container_id, feeds=stdin)
    if code == streams.DETACHED:
        return code
    return await final_code(on, container_id, code)


async def _log(on: Node, container_id: str) -> logfile.LogFile:
    status = cri.ContainerStatusRequest(container_id=container_id)
    return logfile.LogFile((await on.runtime.ContainerStatus(status)).status.log_path)


async def _attach(shim: ShimClient | None, *, stdin: bool) -> ShimStream | None:
    """The live stream, or None when it has ended already: the log then has all."""
    if shim is None:
        return None
    try:
        return await shim.attach(stdin=stdin)
    except (FailedPreconditionError, UnavailableError, NotFoundError):
        return None


async def _follow_log(on: Node, shim: ShimClient | None, container_id: str, *, feeds: bool) -> int | None:
    """Show the log from its first byte, which an attach would miss, until the shim tells of the end."""
    log = await _log(on, container_id)
    ended = anyio.Event()
    codes: list[int] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_watch_end, on, shim, container_id, codes, ended)
        if feeds and (stream := await _attach(shim, stdin=True)):
            group.start_soon(streams.feed, stream, anyio.Event(), group.cancel_scope, False)
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


async def _forward_signals(
    on: Node, container_id: str, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
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
