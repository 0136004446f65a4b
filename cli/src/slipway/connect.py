"""Where a node answers, and clients of it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError

TIMEOUT_S = 120.0
OWNER = "io.slipway.cli"
"""Label of sandboxes that the command line made, one for each container."""


class Node:
    """One node's CRI, by its run directory."""

    def __init__(self, run_dir: str, runtime: Any, images: Any) -> None:
        self.run_dir = run_dir
        self.runtime = runtime
        self.images = images

    async def container(self, name: str) -> Any:
        """The container of this name, id or unambiguous id prefix.

        Raises:
            NotFoundError: there is none.
            InvalidArgumentError: there are several.
        """
        from common.api.cri.v1 import api_pb2 as cri

        found = (await self.runtime.ListContainers(cri.ListContainersRequest(), timeout=TIMEOUT_S)).containers
        hits = [c for c in found if name in (c.id, c.metadata.name)] or [
            c for c in found if c.id.startswith(name)
        ]
        if not hits:
            message = f"no container {name!r}: `slipway ps -a` lists them"
            raise NotFoundError(message)
        if len(hits) > 1:
            message = f"{name!r} is the start of {len(hits)} ids: give more of it"
            raise InvalidArgumentError(message)
        return hits[0]


@asynccontextmanager
async def node(run_dir: str) -> AsyncIterator[Node]:
    """Connect to a node.

    Raises:
        FailedPreconditionError: no node runs there.
    """
    from common.api.cri.v1 import api_pb2_grpc as rpc
    from common.rpc.channel import channel

    path = Path(run_dir, "crid.sock")
    if not path.is_socket():
        message = f"no node answers in {run_dir}: start one with `sudo ./dev up`, or give --run-dir"
        raise FailedPreconditionError(message)
    opened = channel(str(path))
    try:
        yield Node(run_dir, rpc.RuntimeServiceStub(opened), rpc.ImageServiceStub(opened))
    finally:
        await opened.close()


def nats_url(run_dir: str) -> str:
    """Where the node's events are.

    Raises:
        FailedPreconditionError: the node has left no address.
    """
    try:
        return str(json.loads(Path(run_dir, "node.json").read_text())["nats_url"])
    except (OSError, ValueError, KeyError) as exc:
        message = f"{run_dir}/node.json has no NATS address: give --nats nats://HOST:PORT"
        raise FailedPreconditionError(message) from exc


async def prepare_exec(run_dir: str, request: Any) -> Any:
    """Where to stream a command, by runtimed."""
    return await _runtimed(run_dir, "PrepareExec", request)


async def prepare_attach(run_dir: str, container_id: str) -> Any:
    """Where a container's stdio is, by runtimed."""
    from common.api.runtime.v1 import runtime_pb2

    return await _runtimed(
        run_dir, "PrepareAttach", runtime_pb2.PrepareAttachRequest(container_id=container_id)
    )


async def _runtimed(run_dir: str, method: str, request: Any) -> Any:
    from common.api.runtime.v1 import runtime_pb2_grpc
    from common.rpc.channel import channel

    opened = channel(f"{run_dir}/runtimed.sock")
    try:
        return await getattr(runtime_pb2_grpc.RuntimeStub(opened), method)(request, timeout=TIMEOUT_S)
    finally:
        await opened.close()
