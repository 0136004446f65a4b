"""Use cases of shimd: fork a shim or a pause, find them again, end them.

The directories under run_dir/shimd are the only state: each holds a pid file with the start time of its process,
so that what is found again is the process that was started.
"""

import os
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import anyio
import msgpack

from common.clients.shim import ShimClient
from common.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    SlipwayError,
    UnavailableError,
)
from common.failpoint import failpoint
from common.observe.log import get_logger
from shimd import meters
from shimd.ports import Forker
from shimd.shim import wire
from shimd.shim.main import LISTENER_NAME, LOG_NAME, PID_NAME, SPEC_NAME

_log = get_logger("shimd")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_END_S = 10.0
_BURY_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """A shim or a pause: its object's id, its pid, and whether it lives."""

    id: str
    pid: int
    alive: bool


class ShimService:
    """Keeps the shims and pauses of this node."""

    def __init__(self, run_dir: Path, forker: Forker) -> None:
        self._shims = run_dir / "shims"
        self._pauses = run_dir / "pauses"
        self._forker = forker
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    def prepare(self) -> None:
        """Make the directories."""
        for directory in (self._shims, self._pauses):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def socket_path(self, container_id: str) -> str:
        return str(self._shims / container_id / LISTENER_NAME)

    async def spawn(self, spec: dict[str, Any]) -> Found:
        """Fork a shim that listens on its socket; the one that is there already, if it lives."""
        directory = self._directory(self._shims, "container_id", spec["container_id"])
        for field in ("bundle_path", "record_dir"):
            if not spec[field].startswith("/"):
                raise InvalidArgumentError(f"{field} {spec[field]!r}: is not an absolute path")
        if not spec["runtime"]["binary"]:
            raise InvalidArgumentError("runtime.binary: is empty")
        async with self._lock(f"shim {directory.name}"):
            try:
                with meters.SPAWN_SECONDS.time():
                    answer = await self._fork(directory, msgpack.packb(spec))
            except FileExistsError:
                found = await anyio.to_thread.run_sync(_look, directory)
                if found is not None and found.alive:
                    return found
                await self._bury(directory)
                answer = await self._fork(directory, msgpack.packb(spec))
        return Found(id=directory.name, pid=answer["pid"], alive=True)

    async def _fork(self, directory: Path, spec: bytes) -> dict[str, Any]:
        listener, log = await anyio.to_thread.run_sync(_furnish, directory, spec)
        try:
            await failpoint("shimd.spawn.furnished")
            made = await self._forker.request("spawn", (listener, log), directory=str(directory), spec=spec)
            await failpoint("shimd.spawn.forked")
            return made
        finally:
            os.close(listener)
            os.close(log)

    async def list_shims(self) -> list[Found]:
        return await anyio.to_thread.run_sync(_scan, self._shims)

    async def measure(self) -> None:
        """Count the shims."""
        found = await self.list_shims()
        alive = sum(shim.alive for shim in found)
        meters.SHIMS.labels("true").set(alive)
        meters.SHIMS.labels("false").set(len(found) - alive)

    async def list_pauses(self) -> list[Found]:
        return await anyio.to_thread.run_sync(_scan, self._pauses)

    async def remove(self, container_id: str, *, force: bool = False) -> None:
        """End a shim and remove its directory; of a shim that died or is killed, delete the container as well."""
        directory = self._directory(self._shims, "container_id", container_id)
        async with self._lock(f"shim {container_id}"):
            found = await anyio.to_thread.run_sync(_look, directory)
            if found is not None and found.alive and force:
                await _kill(found.pid, f"shim {container_id}")
                await self._bury(directory)
            elif found is not None and found.alive:
                await self._end(container_id, found.pid)
                await failpoint("shimd.remove.ended")
                await anyio.to_thread.run_sync(shutil.rmtree, directory)
            elif directory.exists():
                await self._bury(directory)

    async def _end(self, container_id: str, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            client = await ShimClient.connect(self.socket_path(container_id))
            try:
                await client.shutdown()
            finally:
                await client.close()
            await _gone(pidfd, f"shim {container_id}")
        except FailedPreconditionError:
            raise
        except UnavailableError:
            await _gone(pidfd, f"shim {container_id}")  # it left while we asked
        finally:
            os.close(pidfd)

    async def _bury(self, directory: Path) -> None:
        """Clean up after a shim that died: what its container still runs has lost its output.

        Raises:
            SlipwayError: the container was not deleted; the directory stays, and with it what is to be known of it.
        """
        meters.BURIED.inc()
        _log.warning("shim.buried", container_id=directory.name)
        try:
            spec = msgpack.unpackb(await anyio.Path(directory / SPEC_NAME).read_bytes())
        except (OSError, ValueError):
            spec = None  # it was killed before it had a container
        if spec is not None:
            try:
                await self._forker.request("bury", timeout_s=_BURY_S, spec=spec)
            except SlipwayError as exc:
                _log.warning("shim.delete_failed", container_id=directory.name, error=str(exc))
                raise
        await anyio.to_thread.run_sync(shutil.rmtree, directory, True)

    async def spawn_pause(self, sandbox_id: str, user_namespace: str = "") -> Found:
        """Fork pid 1 of a new PID namespace; the one that is there already, if it lives.

        Args:
            sandbox_id: whose.
            user_namespace: path of the user namespace that is to own it; "" for the host's.
        """
        directory = self._directory(self._pauses, "sandbox_id", sandbox_id)
        async with self._lock(f"pause {sandbox_id}"):
            found = await anyio.to_thread.run_sync(_look, directory)
            if found is not None and found.alive:
                return found
            answer = await self._forker.request("pause", directory=str(directory), userns=user_namespace)
        return Found(id=sandbox_id, pid=answer["pid"], alive=True)

    async def remove_pause(self, sandbox_id: str) -> None:
        """Kill a pause, and with it every process of its namespace."""
        directory = self._directory(self._pauses, "sandbox_id", sandbox_id)
        async with self._lock(f"pause {sandbox_id}"):
            found = await anyio.to_thread.run_sync(_look, directory)
            if found is not None and found.alive:
                await _kill(found.pid, f"pause {sandbox_id}")
            await anyio.to_thread.run_sync(shutil.rmtree, directory, True)

    def _directory(self, parent: Path, field: str, name: str) -> Path:
        if not _ID.fullmatch(name):
            raise InvalidArgumentError(f"{field} {name!r}: is no id of letters, digits, '_', '.' and '-'")
        return parent / name

    def _lock(self, key: str) -> anyio.Lock:
        """Of one object, for as long as somebody has it or waits for it."""
        return self._locks.setdefault(key, anyio.Lock())


def _furnish(directory: Path, spec: bytes) -> tuple[int, int]:
    """Make a shim's directory; returns its listening socket and its log, to be closed by the caller."""
    directory.mkdir(mode=0o700)
    (directory / SPEC_NAME).write_bytes(spec)
    log = os.open(directory / LOG_NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        return wire.listen(str(directory / LISTENER_NAME)).detach(), log
    except BaseException:
        os.close(log)
        raise


def _scan(parent: Path) -> list[Found]:
    found = []
    for directory in sorted(parent.iterdir()):
        one = _look(directory)
        found.append(one if one is not None else Found(id=directory.name, pid=0, alive=False))
    return found


def _look(directory: Path) -> Found | None:
    """What a directory says, and whether its process is still that one and no zombie."""
    try:
        pid, start = (directory / PID_NAME).read_text().split()
    except (OSError, ValueError):
        return None
    return Found(id=directory.name, pid=int(pid), alive=_is_alive(int(pid), start))


def _is_alive(pid: int, start: str) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[19] == start and fields[0] not in ("Z", "X")


async def _kill(pid: int, what: str) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await _gone(pidfd, what)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


async def _gone(pidfd: int, what: str) -> None:
    try:
        with anyio.fail_after(_END_S):
            await anyio.wait_readable(pidfd)
    except TimeoutError as exc:
        raise DeadlineExceededError(f"{what}: did not end in {_END_S:g} s") from exc
