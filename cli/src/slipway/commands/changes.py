"""diff, commit."""

import os
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio

from common.api.cri.v1 import api_pb2 as cri
from common.api.images.v1 import images_pb2
from common.api.runtime.v1 import runtime_pb2 as runtime
from common.api.snapshots.v1 import snapshots_pb2 as pb
from common.errors import InvalidArgumentError
from slipway.connect import imaged, node, runtimed, snapshotd
from slipway.output import render

LETTERS = {pb.CHANGE_KIND_ADDED: "A", pb.CHANGE_KIND_CHANGED: "C", pb.CHANGE_KIND_DELETED: "D"}
MADE = ("/dev", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/proc", "/sys")
"""What the runtime makes to mount on, in each container."""
UNPAUSE_S = 30.0


async def diff(arguments: Namespace) -> int:
    """List what a container changed."""
    status = await _status(arguments)
    async with snapshotd(arguments.run_dir) as client:
        found = [change async for change in client.changes(status.id, _mounts(status))]
    if arguments.report == "json":
        render.document([{"path": os.fsdecode(c.path), "kind": LETTERS[c.kind]} for c in found])
    else:
        sys.stdout.writelines(f"{LETTERS[c.kind]} {render.clean(os.fsdecode(c.path))}\n" for c in found)
    return 0


async def commit(arguments: Namespace) -> int:
    """Make an image of what a container changed, and print its id."""
    status = await _status(arguments)
    pause = arguments.pause and status.state == cri.CONTAINER_RUNNING
    request = images_pb2.CommitRequest(
        snapshot=status.id,
        image=status.image_id,
        name=arguments.name,
        author=arguments.author,
        message=arguments.message,
        created_by="slipway commit",
        changes=arguments.change,
        ignore=_mounts(status),
        created_ns=epoch() * 10**9,
        dry_run=True,
    )
    async with imaged(arguments.run_dir) as client, AsyncExitStack() as stack:
        await client.commit(request)  # what is wrong with it holds no container still
        request.dry_run = False
        # it stands still while it is read, not while that is compressed and stored
        await stack.enter_async_context(_still(arguments.run_dir, status.id, pause=pause))
        image = await client.commit(request, stack.aclose)
    sys.stdout.write(f"{image.id}\n")
    return 0


async def _status(arguments: Namespace) -> Any:
    async with node(arguments.run_dir) as on:
        container = await on.container(arguments.container)
        asked = cri.ContainerStatusRequest(container_id=container.id)
        return (await on.runtime.ContainerStatus(asked)).status


def _mounts(status: Any) -> list[str]:
    return [*MADE, *(mount.container_path for mount in status.mounts)]


@asynccontextmanager
async def _still(run_dir: str, container_id: str, *, pause: bool) -> AsyncIterator[None]:
    """Pause a container for as long as the block runs."""
    if not pause:
        yield
        return
    async with runtimed(run_dir) as backend:
        await backend.PauseContainer(runtime.PauseContainerRequest(container_id=container_id))
        try:
            yield
        finally:
            with anyio.move_on_after(UNPAUSE_S, shield=True):
                await backend.ResumeContainer(runtime.ResumeContainerRequest(container_id=container_id))


def epoch() -> int:
    """SOURCE_DATE_EPOCH, by which the same container gives the same image; 0 when it is not set."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")  # noqa: TID251 - the name that all build tools read
    if text and not (text.isdecimal() and len(text) < 12):
        message = f"SOURCE_DATE_EPOCH={text!r}: want seconds since 1970"
        raise InvalidArgumentError(message)
    return int(text or 0)
