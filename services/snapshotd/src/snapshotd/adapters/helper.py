"""Unpack helpers: exec'ed processes, one job each, with one kept ready."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import anyio
import isal
import zstandard

import snapshotd
from common import errors
from common.observe.log import get_logger
from snapshotd.diff.finish import Unpacked, answer_of
from snapshotd.ports import UnpackJob

_MAX_ANSWER_BYTES = 64 << 20
_log = get_logger("unpack")


def _command() -> list[str]:
    modules = (snapshotd, isal, zstandard)
    places = dict.fromkeys(str(Path(str(module.__file__)).parents[1]) for module in modules)
    code = f"import sys; sys.path[:0] = {list(places)!r}; from snapshotd.diff.unpack import main; main()"
    return [sys.executable, "-I", "-S", "-c", code]


class HelperPool:
    """Runs unpack jobs, each in a process of its own.

    Args:
        timeout_s: a job that takes longer is killed.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._ready: list[asyncio.subprocess.Process] = []

    async def warm(self) -> None:
        """Have one helper ready."""
        if not self._ready:
            self._ready.append(await self._spawn())

    async def close(self) -> None:
        """End the helper that waits."""
        for process in self._ready:
            await _end(process)
        self._ready.clear()

    async def unpack(self, job: UnpackJob) -> Unpacked:
        """Unpack a blob into an empty directory; see ports.Unpacker."""
        process = await self._take()
        try:
            with anyio.fail_after(self._timeout_s):
                answer = await self._talk(process, job)
        except TimeoutError as exc:
            message = f"{job.name}: unpacking took longer than {self._timeout_s} s"
            raise errors.DeadlineExceededError(message) from exc
        finally:
            await _end(process)
        reason = answer.get("error")
        if reason:
            where = f" (in {job.target.parent.parent})" if reason == "ResourceExhaustedError" else ""
            raise errors.BY_REASON[reason](f"{job.name}: {answer['text']}{where}")
        return answer_of(answer)

    async def _take(self) -> asyncio.subprocess.Process:
        while self._ready:
            process = self._ready.pop()
            if process.returncode is None:
                return process
        return await self._spawn()

    async def _spawn(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *_command(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_MAX_ANSWER_BYTES,
            cwd="/",
            env={},
        )

    async def _talk(self, process: asyncio.subprocess.Process, job: UnpackJob) -> dict[str, Any]:
        if process.stdin is None or process.stdout is None:
            raise errors.InternalError("the unpack helper has no pipes")
        request = {
            "blob": job.blob,
            "target": str(job.target),
            "media_type": job.media_type,
            "algorithm": job.diff_id.algorithm,
            "hex": job.diff_id.hex,
            "max_entries": job.max_entries,
            "max_bytes": job.max_bytes,
        }
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
        except (OSError, ValueError) as exc:
            line = b""
            _log.warning("unpack.helper_failed", error=str(exc))
        if not line:
            code = await process.wait()
            message = f"{job.name}: the unpack helper ended with status {code}"
            raise errors.InternalError(message)
        answer: dict[str, Any] = json.loads(line)
        return answer


async def _end(process: asyncio.subprocess.Process) -> None:
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            process.kill()
        await process.wait()
