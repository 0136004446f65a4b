"""Where the servers of layers ask for bytes: a Unix socket, a line of JSON each way.

They have no credentials and no network, and get no bytes here either: these are in the blob's file when the answer comes.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from common.accepting import accept
from common.errors import SlipwayError
from common.sys.reading import hold
from imaged.lazy.coming import MAX_RANGE_BYTES, PASSING
from imaged.lazy.store import LazyBlobs

MAX_CONNECTIONS = 4096
MAX_LINE_BYTES = 4096
MAX_WAIT_S = 600.0
AGAIN_S = 0.5


class Asked(msgspec.Struct, frozen=True):
    """One question."""

    digest: str
    start: int
    end: int
    again: bool = False
    timeout_s: float = 60.0
    """How long the asker waits."""
    damaged: bool = False
    """No question: the registry's bytes are not what the table of contents says."""


class RangeSocket:
    """Answers until it is cancelled.

    Args:
        path: of the socket; its directory is made.
        mode: the socket's.
        blobs: what may be asked for.
    """

    def __init__(self, path: Path, mode: int, blobs: LazyBlobs) -> None:
        self._path, self._mode, self._blobs = path, mode, blobs
        self._lines = 0

    async def run(self) -> None:
        """A long task."""
        self._path.parent.mkdir(mode=0o700 | (self._mode & 0o60) >> 3 | (self._mode & 0o60), exist_ok=True)
        self._path.unlink(missing_ok=True)
        async with (
            await anyio.create_unix_listener(self._path, mode=self._mode) as listener,
            anyio.create_task_group() as group,
        ):
            await accept(partial(listener.serve, self._guarded, group), str(self._path))

    async def _guarded(self, line: SocketStream) -> None:
        hold(line)
        async with line:
            if self._lines >= MAX_CONNECTIONS:
                return
            self._lines += 1
            try:
                await self._talk(line)
            except (
                anyio.BrokenResourceError,
                anyio.EndOfStream,
                anyio.IncompleteRead,
                anyio.DelimiterNotFound,
            ):
                return
            finally:
                self._lines -= 1

    async def _talk(self, line: SocketStream) -> None:
        reader = BufferedByteReceiveStream(line)
        while True:
            raw = await reader.receive_until(b"\n", MAX_LINE_BYTES)
            try:
                answer = await self._answer(msgspec.json.decode(raw, type=Asked))
            except msgspec.MsgspecError as exc:
                answer = {"error": f"a question that cannot be read: {exc}"}
            await line.send(msgspec.json.encode(answer) + b"\n")

    async def _answer(self, asked: Asked) -> Mapping[str, Any]:
        if asked.damaged:
            await self._blobs.unread(
                asked.digest, f"bytes {asked.start} to {asked.end} are not what the table of contents says"
            )
            return {"ok": True}
        if asked.end - asked.start > MAX_RANGE_BYTES:
            return {"error": f"{asked.end - asked.start} bytes at once: the most are {MAX_RANGE_BYTES}"}
        why = "no answer in time"
        with anyio.move_on_after(min(max(asked.timeout_s, 0.0), MAX_WAIT_S)):
            while True:
                try:
                    await self._blobs.bring(asked.digest, asked.start, asked.end, again=asked.again)
                except PASSING as exc:
                    why = exc.message
                    await anyio.sleep(AGAIN_S)
                except SlipwayError as exc:
                    why = exc.message
                    break
                else:
                    return {"ok": True}
        await self._blobs.unread(asked.digest, why)
        return {"error": why}
