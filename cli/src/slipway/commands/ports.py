"""port, port-forward: how a container's ports are reached from the node."""

import sys
from argparse import Namespace
from contextlib import suppress
from dataclasses import dataclass

import anyio
from anyio.abc import Listener, SocketAttribute, SocketStream

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import InvalidArgumentError, NotFoundError, SlipwayError, UnavailableError
from common.sys.dial import dial
from common.sys.reading import hold
from slipway.connect import Node, node, runtimed
from slipway.output import render

CHUNK_BYTES = 65536
MAX_CONNECTIONS = 256
"""More wait until one ends."""


async def port(arguments: Namespace) -> int:
    """Print where the published ports of a container's pod are on the node."""
    wanted, _, protocol = arguments.port.partition("/")
    if wanted and not (_is_port(wanted) and protocol in ("", "tcp", "udp", "sctp")):
        message = f"{arguments.port!r}: want a port of the container, such as 80 or 53/udp"
        raise InvalidArgumentError(message)
    async with node(arguments.run_dir) as on, runtimed(arguments.run_dir) as backend:
        container_id = (await on.container(arguments.container)).id
        entries = (await backend.Overview(pb.OverviewRequest())).containers
    ports = [m for entry in entries if entry.container.id == container_id for m in entry.ports]
    lines = []
    for mapping in ports:
        name = cri.Protocol.Name(mapping.protocol).lower()
        if not mapping.host_port or (
            wanted and (str(mapping.container_port), name) != (wanted, protocol or "tcp")
        ):
            continue
        host = mapping.host_ip or "0.0.0.0"
        address = f"{f'[{host}]' if ':' in host else host}:{mapping.host_port}"
        lines.append(address if wanted else f"{mapping.container_port}/{name} -> {address}")
    if wanted and not lines:
        message = (
            f"container {arguments.container!r}: port {arguments.port} is not published: `run -p` does it"
        )
        raise NotFoundError(message)
    sys.stdout.writelines(f"{render.clean(line)}\n" for line in lines)
    return 0


@dataclass(frozen=True)
class Forward:
    """A port of ours, and the one in the pod; ours may be 0 for any."""

    local: int
    remote: int


def forward_of(text: str) -> Forward:
    """The pair of `8080:80`, `80` or `:80`.

    Raises:
        InvalidArgumentError: it is none.
    """
    left, joint, right = text.partition(":")
    remote = right if joint else left
    local = left or "0" if joint else remote
    if not _is_port(remote) or not (local == "0" or _is_port(local)):
        message = f"{text!r}: want [LOCAL:]PORT, numbers from 1 to 65535; LOCAL empty or 0 takes any"
        raise InvalidArgumentError(message)
    return Forward(int(local), int(remote))


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text[:6]) < 65536


async def forward(arguments: Namespace) -> int:
    """Listen on ports of the node and carry each connection into a pod, until we are ended."""
    pairs = [forward_of(text) for text in arguments.port]
    async with node(arguments.run_dir) as on, runtimed(arguments.run_dir) as backend:
        request = pb.PreparePortForwardRequest(pod_sandbox_id=await _pod(on, arguments.pod))
        netns = (await backend.PreparePortForward(request)).netns_path
    async with anyio.create_task_group() as group:
        room = anyio.CapacityLimiter(MAX_CONNECTIONS)
        for pair in pairs:
            listener = await _listen(arguments.address, pair.local)
            local = listener.extra(SocketAttribute.local_port)  # noqa: S610 - no SQL
            sys.stdout.write(f"{arguments.address}:{local} -> {pair.remote}\n")
            sys.stdout.flush()

            async def carry(client: SocketStream, remote: int = pair.remote) -> None:
                async with room, client:
                    await _carry(client, netns, remote)

            group.start_soon(listener.serve, carry)
    return 0


async def _pod(on: Node, name: str) -> str:
    """The pod of this name, or of the container of this name."""
    try:
        return str((await on.pod(name)).id)
    except NotFoundError:
        try:
            return str((await on.container(name)).pod_sandbox_id)
        except NotFoundError:
            message = f"no pod or container {name!r}: `slipway pods` and `slipway ps` list them"
            raise NotFoundError(message) from None


async def _listen(address: str, port_: int) -> Listener[SocketStream]:
    try:
        found = await anyio.create_tcp_listener(local_host=address, local_port=port_)
    except OSError as exc:
        message = f"{address}:{port_}: {exc.strerror or exc}: choose another LOCAL port or --address"
        raise UnavailableError(message) from exc
    return found.listeners[0]


async def _carry(client: SocketStream, netns: str, remote: int) -> None:
    hold(client)
    try:
        target = await dial(netns, remote)
    except SlipwayError as exc:
        sys.stderr.write(f"slipway: {render.complaint(exc)}\n")
        return
    async with target, anyio.create_task_group() as group:
        group.start_soon(_pump, client, target)
        group.start_soon(_pump, target, client)


async def _pump(source: SocketStream, sink: SocketStream) -> None:
    """Until the end of one half, which is told to the other."""
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async for data in source:
            await sink.send(data)
        await sink.send_eof()
