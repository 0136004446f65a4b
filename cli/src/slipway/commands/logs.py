"""logs: read a CRI log file, across rotations."""

import sys
from argparse import Namespace
from collections import deque
from io import BufferedReader
from pathlib import Path

import anyio

from common.api.cri.v1 import api_pb2 as cri
from common.errors import NotFoundError
from slipway.connect import TIMEOUT_S, Node, node

POLL_S = 0.1


async def logs(arguments: Namespace) -> int:
    """Print a container's output, and follow it until it ends."""
    async with node(arguments.run_dir) as on:
        container_id = (await on.container(arguments.container)).id
        path = Path((await _status(on, container_id)).log_path)
        if not path.exists():
            message = f"container {arguments.container!r} has no log file {str(path)!r}"
            raise NotFoundError(message)
        with path.open("rb") as file:
            lines = deque(file, maxlen=arguments.tail if arguments.tail >= 0 else None)
            for line in lines:
                _print(line, timestamps=arguments.timestamps)
            if arguments.follow:
                await _follow(on, container_id, path, file, timestamps=arguments.timestamps)
    return 0


async def _follow(on: Node, container_id: str, path: Path, file: BufferedReader, *, timestamps: bool) -> None:
    pending = b""
    while True:
        ended = (await _status(on, container_id)).state == cri.CONTAINER_EXITED
        while chunk := file.readline():
            pending += chunk
            if pending.endswith(b"\n"):
                _print(pending, timestamps=timestamps)
                pending = b""
        sys.stdout.flush()
        if path.exists() and path.stat().st_ino != _inode(file):
            file = path.open("rb")
            continue
        if ended:
            return
        await anyio.sleep(POLL_S)


def _inode(file: BufferedReader) -> int:
    import os

    return os.fstat(file.fileno()).st_ino


async def _status(on: Node, container_id: str) -> cri.ContainerStatus:
    request = cri.ContainerStatusRequest(container_id=container_id)
    answer: cri.ContainerStatusResponse = await on.runtime.ContainerStatus(request, timeout=TIMEOUT_S)
    return answer.status


def _print(line: bytes, *, timestamps: bool) -> None:
    """One line of the CRI format: time, stream, tag, content."""
    parts = line.split(b" ", 3)
    if len(parts) < 4:
        return
    at, stream, tag, content = parts
    out = sys.stderr.buffer if stream == b"stderr" else sys.stdout.buffer
    if tag.startswith(b"P"):
        content = content.removesuffix(b"\n")
    out.write((at + b" " if timestamps else b"") + content)
    out.flush()
