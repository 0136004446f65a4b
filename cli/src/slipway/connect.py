"""Where a node answers, and clients of it."""

import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from common.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from slipway.output import nicknames

if TYPE_CHECKING:
    from common.clients.imaged import ImagedClient
    from common.clients.shim import ShimClient
    from common.clients.snapshotd import SnapshotdClient


class Closable(Protocol):
    """What is connected to a service."""

    async def close(self) -> None: ...


C = TypeVar("C", bound=Closable)
TIMEOUT_S = 120.0
OWNER = "io.slipway.cli"
"""Label of sandboxes that the command line made: `run` with one container, which takes it along, or `pod`."""


class Stub:
    """The methods of a gRPC service, each made when it is first called; the generated stubs make all at once.

    A call without a deadline of its own has TIMEOUT_S.
    """

    def __init__(self, channel: Any, service: Any) -> None:
        self._channel = channel
        self._service = service

    def __getattr__(self, name: str) -> Any:
        from google.protobuf.message_factory import GetMessageClass

        method = self._service.methods_by_name[name]
        make = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        call = make(
            f"/{self._service.full_name}/{name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return call if method.server_streaming else partial(call, timeout=TIMEOUT_S)


class Node:
    """One node, by its run directory: its CRI, and runtimed for what is not in CRI."""

    def __init__(self, run_dir: str, runtime: Any, images: Any, backend: Any) -> None:
        self.run_dir = run_dir
        self.runtime = runtime
        self.images = images
        self.backend = backend

    async def container(self, name: str) -> Any:
        """The container of this name, id or unambiguous id prefix.

        Raises:
            NotFoundError: there is none.
            InvalidArgumentError: there are several.
        """
        found = _only(await self.containers(), name, "container", "slipway ps -a")
        nicknames.remember(found.id, name)
        return found

    async def pod(self, name: str) -> Any:
        """The sandbox of this name, id or unambiguous id prefix; raises as `container` does."""
        found = _only(await self.pods(), name, "pod", "slipway pods")
        nicknames.remember(found.id, name)
        return found

    async def containers(self) -> list[Any]:
        """All containers, whoever made them, as CRI lists one."""
        return [entry.container for entry in (await self._overview()).containers]

    async def pods(self) -> list[Any]:
        """All sandboxes, whoever made them, as CRI lists one."""
        return [entry.pod for entry in (await self._overview()).pods]

    async def _overview(self) -> Any:
        from common.api.runtime.v1 import runtime_pb2 as pb

        return await self.backend.Overview(pb.OverviewRequest())


def _only(found: Iterable[Any], name: str, kind: str, lister: str) -> Any:
    items = list(found)
    hits = [c for c in items if name in (c.id, c.metadata.name)] or [
        c for c in items if name and c.id.startswith(name)
    ]
    if not hits:
        message = f"no {kind} {name!r}: `{lister}` lists them"
        raise NotFoundError(message)
    if len(hits) > 1:
        message = f"{name!r} means {len(hits)} {kind}s: give more of the id"
        raise InvalidArgumentError(message)
    return hits[0]


@asynccontextmanager
async def _client(run_dir: str, service: str, connect: Callable[[str], C]) -> AsyncIterator[C]:
    """What `connect` makes of the socket of a service, closed afterwards."""
    path = f"{run_dir}/{service}.sock"
    probe(run_dir, path)
    opened = connect(path)
    try:
        yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def _channel(run_dir: str, service: str) -> AsyncIterator[Any]:
    from common.rpc.plain import plain_channel

    async with _client(run_dir, service, plain_channel) as opened:
        yield opened


@asynccontextmanager
async def node(run_dir: str) -> AsyncIterator[Node]:
    """Connect to a node.

    Raises:
        FailedPreconditionError: no node runs there.
    """
    from common.api.cri.v1 import api_pb2 as cri

    services = cri.DESCRIPTOR.services_by_name
    async with _channel(run_dir, "crid") as opened, runtimed(run_dir) as backend:
        runtime, images = Stub(opened, services["RuntimeService"]), Stub(opened, services["ImageService"])
        yield Node(run_dir, runtime, images, backend)


@asynccontextmanager
async def imaged(run_dir: str) -> AsyncIterator["ImagedClient"]:
    """A client of imaged.

    Raises:
        FailedPreconditionError: no node runs there.
    """
    from common.clients.imaged import ImagedClient

    async with _client(run_dir, "imaged", ImagedClient) as client:
        yield client


@asynccontextmanager
async def snapshotd(run_dir: str) -> AsyncIterator["SnapshotdClient"]:
    """A client of snapshotd; raises as `imaged` does."""
    from common.clients.snapshotd import SnapshotdClient

    async with _client(run_dir, "snapshotd", SnapshotdClient) as client:
        yield client


@asynccontextmanager
async def runtimed(run_dir: str) -> AsyncIterator[Any]:
    """A stub of runtimed: what is not in CRI, and where to stream."""
    from common.api.runtime.v1 import runtime_pb2 as pb

    async with _channel(run_dir, "runtimed") as opened:
        yield Stub(opened, pb.DESCRIPTOR.services_by_name["Runtime"])


@asynccontextmanager
async def images_of(run_dir: str) -> AsyncIterator[Any]:
    """A stub of imaged, which is imported sooner than its client."""
    from common.api.images.v1 import images_pb2 as pb

    async with _channel(run_dir, "imaged") as opened:
        yield Stub(opened, pb.DESCRIPTOR.services_by_name["Images"])


@asynccontextmanager
async def operations_of(run_dir: str, service: str) -> AsyncIterator[Any]:
    """A stub for the running operations of a service."""
    from common.api.operations.v1 import operations_pb2 as pb

    async with _channel(run_dir, service) as opened:
        yield Stub(opened, pb.DESCRIPTOR.services_by_name["Operations"])


@asynccontextmanager
async def shim_of(run_dir: str, container_id: str) -> AsyncIterator["ShimClient | None"]:
    """The shim of a container; None when it has ended, with its shim."""
    from common.api.runtime.v1 import runtime_pb2 as pb
    from common.clients.shim import ShimClient

    shim = None
    try:
        async with runtimed(run_dir) as backend:
            wanted = pb.PrepareAttachRequest(container_id=container_id)
            address = await backend.PrepareAttach(wanted)
        shim = await ShimClient.connect(address.socket_path)
    except (FailedPreconditionError, NotFoundError, UnavailableError):
        shim = None
    try:
        yield shim
    finally:
        if shim is not None:
            await shim.close()


def probe(run_dir: str, path: str) -> None:
    """Find out at once, not at a deadline, that nobody answers.

    Raises:
        FailedPreconditionError: no node runs there.
        PermissionDeniedError: it is not for this user.
    """
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.connect(path)
        except PermissionError as exc:
            message = f"{path}: permission denied: run it with sudo"
            raise PermissionDeniedError(message) from exc
        except OSError as exc:
            if _is_kept_up(run_dir):
                return  # a service that died comes back within the patience of a call
            message = f"no node answers in {run_dir}: start one with `sudo ./dev up`, or give --run-dir"
            raise FailedPreconditionError(message) from exc


def _is_kept_up(run_dir: str) -> bool:
    """Whether a supervisor starts the services of this node again when they die."""
    try:
        command = Path(f"/proc/{facts(run_dir)['supervisor']}/cmdline").read_bytes()
    except (OSError, KeyError):
        return False
    return run_dir.encode() in command.split(b"\0")


def facts(run_dir: str) -> dict[str, Any]:
    """What the node's supervisor has written down; empty when there is nothing."""
    try:
        found: dict[str, Any] = json.loads(Path(run_dir, "node.json").read_text())
    except (OSError, ValueError):
        return {}
    return found


def log_root(run_dir: str) -> str:
    """Where the logs of `run` are, in one directory for each pod."""
    return f"{facts(run_dir).get('data_dir', '/var/lib/slipway')}/logs"


def nats_url(run_dir: str) -> str:
    """Where the node's events are.

    Raises:
        FailedPreconditionError: the node has left no address.
    """
    url = facts(run_dir).get("nats_url")
    if not url:
        message = f"{run_dir}/node.json has no NATS address: is the node up? Or give --nats nats://HOST:PORT"
        raise FailedPreconditionError(message)
    return str(url)
