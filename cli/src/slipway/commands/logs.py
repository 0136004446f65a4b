"""logs: read a CRI log file, across rotations."""

import os
import sys
from argparse import Namespace
from collections import deque
from collections.abc import Iterator
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
        if not path.is_file():
            message = f"container {arguments.container!r} has no log file {str(path)!r}"
            raise NotFoundError(message)
        with path.open("rb") as file:
            for line in deque(file, maxlen=arguments.tail if arguments.tail >= 0 else None):
                _print(line, timestamps=arguments.timestamps)
            if arguments.follow:
                await _follow(on, container_id, _Tail(path, file.tell()), timestamps=arguments.timestamps)
    return 0


async def follow_until_exit(on: Node, container_id: str, *, quiet: bool) -> int:
    """Print a container's output from its first line (or nothing) until it ends; returns its exit code."""
    path = Path((await _status(on, container_id)).log_path)
    status = await _follow(on, container_id, None if quiet else _Tail(path, 0), timestamps=False)
    return status.exit_code


async def _follow(
    on: Node, container_id: str, tail: "_Tail | None", *, timestamps: bool
) -> cri.ContainerStatus:
    while True:
        status = await _status(on, container_id)
        for line in tail.lines() if tail else ():
            _print(line, timestamps=timestamps)
        if status.state in (cri.CONTAINER_EXITED, cri.CONTAINER_UNKNOWN):
            return status
        await anyio.sleep(POLL_S)


class _Tail:
    """A log file read on, in its successor too after a rotation."""

    def __init__(self, path: Path, offset: int) -> None:
        self._path = path
        self._file: BufferedReader | None = None
        self._offset = offset
        self._pending = b""

    def lines(self) -> Iterator[bytes]:
        """The whole lines that came since the last call."""
        while True:
            if self._file is None:
                if not self._path.exists():
                    return
                self._file = self._path.open("rb")
                self._file.seek(self._offset)
            while chunk := self._file.readline():
                self._pending += chunk
                if self._pending.endswith(b"\n"):
                    yield self._pending
                    self._pending = b""
            if not self._path.exists() or self._path.stat().st_ino == _inode(self._file):
                return
            self._file.close()
            self._file, self._offset = None, 0


def _inode(file: BufferedReader) -> int:
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
