"""run and exec."""

import os
import secrets
import signal
import sys
from argparse import Namespace
from pathlib import Path

import anyio

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2
from common.clients.shim import ShimClient, ShimStream
from common.errors import FailedPreconditionError, InvalidArgumentError, SlipwayError
from slipway.commands.containers import remove
from slipway.commands.images import fetch
from slipway.commands.logs import follow_until_exit
from slipway.connect import OWNER, TIMEOUT_S, Node, node, prepare_attach, prepare_exec
from slipway.terminal import converse, raw_terminal

EXIT_NOT_FOUND = 127
EXIT_NOT_EXECUTABLE = 126
LOGS = "/var/log/slipway"
PROTOCOLS = {"tcp": cri.TCP, "udp": cri.UDP, "sctp": cri.SCTP}


async def run(arguments: Namespace) -> int:
    """Run a container in a pod of its own; the exit code is the container's."""
    async with node(arguments.run_dir) as on:
        image = await _image(on, arguments)
        name = (
            arguments.name
            or f"{Path(arguments.image.partition('@')[0]).name.partition(':')[0]}-{secrets.token_hex(3)}"
        )
        sandbox = _sandbox(name, arguments)
        container = _container(name, image, arguments)
        Path(sandbox.log_directory).mkdir(parents=True, exist_ok=True)
        request = cri.RunPodSandboxRequest(config=sandbox, runtime_handler=arguments.handler)
        sandbox_id = (await on.runtime.RunPodSandbox(request, timeout=TIMEOUT_S)).pod_sandbox_id
        container_id = ""
        try:
            created = cri.CreateContainerRequest(
                pod_sandbox_id=sandbox_id, config=container, sandbox_config=sandbox
            )
            container_id = (await on.runtime.CreateContainer(created, timeout=TIMEOUT_S)).container_id
            await on.runtime.StartContainer(
                cri.StartContainerRequest(container_id=container_id), timeout=TIMEOUT_S
            )
        except SlipwayError as exc:
            with anyio.CancelScope(shield=True):
                await remove(on, container_id or "none", sandbox_id)
            code = _code_of(exc)
            if code is None:
                raise
            sys.stderr.write(f"slipway: {exc.message}\n")
            return code
        if arguments.detach:
            sys.stdout.write(f"{container_id}\n")
            return 0
        return await _attached(on, container_id, sandbox_id, arguments)


async def _attached(on: Node, container_id: str, sandbox_id: str, arguments: Namespace) -> int:
    """Show the output until the container ends; signals go to it, not to us."""
    async with anyio.create_task_group() as group:
        group.start_soon(_forward_signals, on, container_id)
        if arguments.tty:
            stream = await _attach(on, container_id, stdin=True)
            if stream is not None:
                with raw_terminal():
                    await converse(stream, stdin=True, tty=True)
        elif arguments.interactive:
            stream = await _attach(on, container_id, stdin=True)
            if stream is not None:
                group.start_soon(converse, stream, True, False, False)
        code = await follow_until_exit(on, container_id, quiet=arguments.tty)
        group.cancel_scope.cancel()
    if arguments.rm:
        await remove(on, container_id, sandbox_id)
    return code


async def _attach(on: Node, container_id: str, *, stdin: bool) -> ShimStream | None:
    """The container's stdio; None when it has ended already."""
    try:
        address = await prepare_attach(on.run_dir, container_id)
        client = await ShimClient.connect(address.socket_path)
        return await client.attach(stdin=stdin)
    except FailedPreconditionError:
        return None


async def _forward_signals(on: Node, container_id: str) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            request = cri.StopContainerRequest(container_id=container_id, timeout=10)
            await on.runtime.StopContainer(request, timeout=TIMEOUT_S)


async def execute(arguments: Namespace) -> int:
    """Run a command in a running container; the exit code is the command's."""
    if not arguments.command:
        message = "exec: give a command after the container"
        raise InvalidArgumentError(message)
    async with node(arguments.run_dir) as on:
        container_id = (await on.container(arguments.container)).id
    request = runtime_pb2.PrepareExecRequest(
        container_id=container_id, cmd=arguments.command, tty=arguments.tty, stdin=arguments.interactive
    )
    address = await prepare_exec(arguments.run_dir, request)
    try:
        async with await ShimClient.connect(address.socket_path) as client:
            stream = await client.exec_stream(
                address.exec_id, address.process, tty=arguments.tty, stdin=arguments.interactive
            )
            if arguments.tty:
                with raw_terminal():
                    await converse(stream, stdin=arguments.interactive, tty=True)
            else:
                await converse(stream, stdin=arguments.interactive, tty=False)
    except SlipwayError as exc:
        code = _code_of(exc)
        if code is None:
            raise
        sys.stderr.write(f"slipway: {exc.message}\n")
        return code
    return stream.exit_code if stream.exit_code is not None else 255


def _code_of(error: SlipwayError) -> int | None:
    """Docker's code for a command that the runtime could not execute; None for any other failure."""
    said = error.message.lower()
    if "permission denied" in said or "exec format error" in said or "is a directory" in said:
        return EXIT_NOT_EXECUTABLE
    if "no such file" in said or "not found in $path" in said:
        return EXIT_NOT_FOUND
    return None


async def _image(on: Node, arguments: Namespace) -> str:
    spec = cri.ImageSpec(image=arguments.image)
    found = await on.images.ImageStatus(cri.ImageStatusRequest(image=spec), timeout=TIMEOUT_S)
    if found.HasField("image"):
        return str(arguments.image)
    await fetch(arguments.run_dir, arguments.image)
    return str(arguments.image)


def _sandbox(name: str, arguments: Namespace) -> cri.PodSandboxConfig:
    config = cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=name, uid=name, namespace="slipway"),
        hostname="" if arguments.network == "host" else name[:63],
        log_directory=f"{LOGS}/{name}-{secrets.token_hex(4)}",
        labels={OWNER: "1"},
        port_mappings=[_port(text) for text in arguments.publish],
    )
    options = config.linux.security_context.namespace_options
    options.network = cri.NODE if arguments.network == "host" else cri.POD
    options.pid = cri.CONTAINER
    config.linux.security_context.privileged = arguments.privileged
    return config


def _container(name: str, image: str, arguments: Namespace) -> cri.ContainerConfig:
    config = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=name),
        image=cri.ImageSpec(image=image, user_specified_image=arguments.image),
        args=arguments.command,
        working_dir=arguments.workdir,
        envs=[_env(text) for text in arguments.env],
        mounts=[_mount(text) for text in arguments.volume],
        log_path=f"{name}.log",
        stdin=arguments.interactive or arguments.tty,
        stdin_once=arguments.interactive or arguments.tty,
        tty=arguments.tty,
    )
    context = config.linux.security_context
    context.privileged = arguments.privileged
    if not arguments.privileged:
        context.seccomp.profile_type = cri.SecurityProfile.RuntimeDefault
    context.namespace_options.pid = cri.CONTAINER
    if arguments.network == "host":
        context.namespace_options.network = cri.NODE
    user, _, group = arguments.user.partition(":")
    if user.isdecimal():
        context.run_as_user.value = int(user)
    elif user:
        context.run_as_username = user
    if group:
        context.run_as_group.value = int(group)
    return config


def _env(text: str) -> cri.KeyValue:
    key, equals, value = text.partition("=")
    if not equals:
        value = os.environb.get(key.encode(), b"").decode(errors="surrogateescape")
    return cri.KeyValue(key=key, value=value.encode(errors="surrogateescape"))


def _mount(text: str) -> cri.Mount:
    parts = text.split(":")
    if len(parts) not in (2, 3) or not parts[0].startswith("/") or not parts[1].startswith("/"):
        message = f"--volume {text!r}: want /HOST/PATH:/CONTAINER/PATH, with :ro at the end for read-only"
        raise InvalidArgumentError(message)
    return cri.Mount(host_path=parts[0], container_path=parts[1], readonly=parts[2:] == ["ro"])


def _port(text: str) -> cri.PortMapping:
    address, _, protocol = text.partition("/")
    parts = address.rsplit(":", 2)
    if len(parts) < 2 or not all(p.isdecimal() for p in parts[-2:]) or (protocol or "tcp") not in PROTOCOLS:
        message = f"--publish {text!r}: want [IP:]HOST_PORT:CONTAINER_PORT[/tcp|udp|sctp]"
        raise InvalidArgumentError(message)
    return cri.PortMapping(
        protocol=PROTOCOLS[protocol or "tcp"],
        host_port=int(parts[-2]),
        container_port=int(parts[-1]),
        host_ip=parts[0] if len(parts) == 3 else "",
    )
