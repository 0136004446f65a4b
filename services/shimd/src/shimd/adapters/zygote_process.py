"""The zygote as the front sees it: exec'ed, asked over a socketpair, started again when it died."""

import asyncio
import shutil
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgpack

import common
import shimd
from common.errors import DeadlineExceededError, UnavailableError, UnknownError
from common.observe.log import get_logger
from shimd.zygote import CONTROL_FD, MAX_PACKET_BYTES

_log = get_logger("shimd")
_RESTART_S = 1.0
_SCRATCH = "rehearsal"


class ZygoteProcess:
    """One zygote at a time; requests run side by side."""

    def __init__(self, *, run_dir: Path, cgroups: list[str], timeout_s: float = 10.0) -> None:
        self._run_dir = run_dir
        self._prepare = {
            "scratch": str(run_dir / _SCRATCH),
            "home": str(run_dir / "zygote"),
            "cgroups": cgroups,
        }
        self._timeout_s = timeout_s
        self._lock = anyio.Lock()
        self._process: Process | None = None
        self._socket: socket.socket | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last_id = 0
        self._closed = False
        self._died = anyio.Event()
        self.pid = 0

    async def run(self) -> None:
        """Long task: keep a zygote ready, so that a spawn finds it warm."""
        while not self._closed:
            try:
                await self._ensure()
            except (UnavailableError, UnknownError, DeadlineExceededError) as exc:
                _log.error("zygote.failed", error=exc.message)
                await anyio.sleep(_RESTART_S)
                continue
            await self._died.wait()
            if not self._closed:
                _log.warning("zygote.died", pid=self.pid)

    async def request(
        self, op: str, fds: Sequence[int] = (), *, timeout_s: float | None = None, **fields: Any
    ) -> dict[str, Any]:
        await self._ensure()
        return await self._ask(fds, timeout_s, op=op, **fields)

    async def close(self) -> None:
        """End the zygote; what it forked lives on. Idempotent."""
        self._closed = True
        process, self._process = self._process, None
        self._drop("shimd is stopping")
        if process is not None:
            with anyio.move_on_after(2) as scope:
                await process.wait()
            if scope.cancelled_caught:
                process.kill()

    async def _ensure(self) -> None:
        async with self._lock:
            if self._closed:
                raise UnavailableError("zygote: shimd is stopping")
            if self._socket is None:
                await self._start()

    async def _start(self) -> None:
        await anyio.to_thread.run_sync(_clear_scratch, self._run_dir)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        roots = {Path(module.__path__[0]).parent for module in (shimd, common, msgpack)}
        # The dup onto CONTROL_FD is made by the new interpreter: pass_fds keeps numbers as they are.
        fd = theirs.fileno()
        code = (
            f"import os, sys; os.dup2({fd}, {CONTROL_FD}) if {fd} != {CONTROL_FD} else None; "
            f"os.closerange({CONTROL_FD + 1}, {max(fd, CONTROL_FD) + 1}); "
            f"sys.path[:0] = {sorted(str(root) for root in roots)!r}; "
            "from shimd.zygote import main; main()"
        )
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-SIc",
                code,
                str(self._run_dir),  # in the list of processes, also of each shim
                pass_fds=(fd,),
                stdin=asyncio.subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
            )
        except OSError as exc:
            ours.close()
            raise UnavailableError(f"zygote: cannot run {sys.executable}: {exc.strerror}") from exc
        finally:
            theirs.close()
        self._socket = ours
        self._died = anyio.Event()
        asyncio.get_running_loop().add_reader(ours.fileno(), self._readable)
        answer = await self._ask((), None, op="prepare", **self._prepare)
        self.pid = int(answer["pid"])
        _log.info("zygote.ready", pid=self.pid)

    async def _ask(self, fds: Sequence[int], timeout_s: float | None, **fields: Any) -> dict[str, Any]:
        timeout_s = timeout_s or self._timeout_s
        if self._socket is None:
            raise UnavailableError("zygote: died")
        self._last_id += 1
        number = self._last_id
        packet: bytes = msgpack.packb({"id": number, **fields})
        if len(packet) > MAX_PACKET_BYTES:
            raise UnknownError(f"zygote: a request of {len(packet)} bytes is too large")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._waiting[number] = answer
        try:
            with anyio.fail_after(timeout_s):
                await self._send(packet, fds)
                message = await answer
        except TimeoutError as exc:
            raise DeadlineExceededError(f"zygote: no answer in {timeout_s:g} s") from exc
        except OSError as exc:
            self._drop("died")
            raise UnavailableError(f"zygote: {exc.strerror}") from exc
        finally:
            self._waiting.pop(number, None)
        if "error" in message:
            raise UnknownError(str(message["error"]))
        return message

    async def _send(self, packet: bytes, fds: Sequence[int]) -> None:
        while self._socket is not None:
            try:
                if fds:
                    socket.send_fds(self._socket, [packet], list(fds))
                else:
                    self._socket.send(packet)
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            else:
                return

    def _readable(self) -> None:
        if self._socket is None:
            return
        try:
            packet = self._socket.recv(MAX_PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._drop("died")
            return
        message = msgpack.unpackb(packet)
        waiting = self._waiting.get(message["id"])
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def _drop(self, why: str) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(UnavailableError(f"zygote: {why}"))
        self._died.set()


def _clear_scratch(run_dir: Path) -> None:
    """Remove what zygotes that were killed have left; one whose shimd died may still be at it. Blocking."""
    for path in run_dir.glob(f"{_SCRATCH}-*"):
        if not Path("/proc", path.name.removeprefix(f"{_SCRATCH}-")).exists():
            shutil.rmtree(path, ignore_errors=True)
