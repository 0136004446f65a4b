"""The nursery as snapshotd sees it: exec'ed, asked over a socketpair, started again when it died."""

import asyncio
import json
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import isal
import zstandard

import common
import snapshotd
from common.errors import UnavailableError
from common.observe.log import get_logger
from snapshotd.diff.nursery import CONTROL_FD, MAX_PACKET_BYTES

ENTRY = "from snapshotd.diff.nursery import main; main()"
_START_S = 30.0
"""How long a job waits for a nursery; one takes a tenth of a second."""
_END_S = 10.0
_RESTART_S = 0.2
_log = get_logger("nursery")


@dataclass
class Helper:
    """A forked process, by its number in the nursery."""

    number: int
    ended: anyio.Event = field(default_factory=anyio.Event)
    how: str = ""
    """How it ended, for a message."""
    orphaned: bool = False
    """The nursery has died, and it would have lived."""


class Nursery:
    """One nursery at a time, and its helpers.

    Args:
        directory: whose helpers they are, as the list of processes shows.
        entry: Python that the new process runs.
    """

    def __init__(self, directory: Path, entry: str = ENTRY) -> None:
        self._directory, self._entry = directory, entry
        self._ready = anyio.Event()
        self._control: socket.socket | None = None
        self._helpers: dict[int, Helper] = {}
        self._last = 0
        self.pid = 0

    async def run(self) -> None:
        """Long task: keep a nursery."""
        while True:
            try:
                async with self._started() as control:
                    await self._listen(control)
                _log.warning("nursery.died", pid=self.pid)
            except OSError as exc:
                _log.error("nursery.failed", error=str(exc))
            await anyio.sleep(_RESTART_S)

    async def begin(self, job: dict[str, Any], fds: Sequence[int]) -> Helper:
        """Have a helper do a job; it must be ended. The descriptors are copied.

        Raises:
            UnavailableError: there is no nursery.
        """
        with anyio.move_on_after(_START_S):
            await self._ready.wait()
        self._last += 1
        helper = Helper(self._last)
        packet = json.dumps({"id": helper.number, "job": job}).encode()
        if self._control is None:
            raise UnavailableError("no process to unpack in: its parent does not start")
        try:
            socket.send_fds(self._control, [packet], fds)
        except OSError as exc:
            raise UnavailableError(f"no process to unpack in: {exc.strerror}") from exc
        self._helpers[helper.number] = helper
        return helper

    async def end(self, helper: Helper) -> None:
        """Kill a helper, and return when it has ended; idempotent."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(_END_S):
            if not helper.ended.is_set() and self._control:
                with suppress(OSError):  # the nursery has died, and takes its helpers along
                    self._control.send(json.dumps({"id": helper.number}).encode())
            await helper.ended.wait()
        if not helper.ended.is_set():
            _log.error("helper.not_ended", number=helper.number)  # the disk has it

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process: Process | None = None
        try:
            ours.setblocking(False)
            try:
                process = await _exec(self._entry, self._directory, theirs.fileno())
            finally:
                theirs.close()
            yield ours
        finally:
            self._control = None
            self._ready = anyio.Event()
            ours.close()
            with anyio.CancelScope(shield=True):
                if process is not None:
                    await _wait(process)
                for number, helper in list(self._helpers.items()):
                    helper.orphaned = True
                    self._ended(number, "with its parent")

    async def _listen(self, control: socket.socket) -> None:
        while True:
            await anyio.wait_readable(control)
            packet = control.recv(MAX_PACKET_BYTES)
            if not packet:
                return
            said = json.loads(packet)
            if "id" in said:
                self._ended(said["id"], said.get("error") or f"with status {said['status']}")
            elif "error" in said:
                raise OSError(0, said["error"])
            else:
                self.pid = said["pid"]
                self._control = control
                self._ready.set()
                _log.info("nursery.ready", pid=self.pid)

    def _ended(self, number: int, how: str) -> None:
        helper = self._helpers.pop(number)
        helper.how = how
        helper.ended.set()


async def _exec(entry: str, directory: Path, control: int) -> Process:
    modules = (snapshotd, common, isal, zstandard)
    places = dict.fromkeys(str(Path(str(module.__file__)).parents[1]) for module in modules)
    code = (
        f"import os, sys; os.dup2({control}, {CONTROL_FD}); os.closerange({CONTROL_FD + 1}, {control + 2}); "
        f"sys.path[:0] = {list(places)!r}; {entry}"
    )
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-ISc",
        code,
        str(directory),
        pass_fds=(control,),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        cwd="/",
        env={},
        start_new_session=True,
    )


async def _wait(process: Process) -> None:
    """Until it is gone, as it does when the socket closes."""
    with anyio.move_on_after(2):
        await process.wait()
        return
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()
