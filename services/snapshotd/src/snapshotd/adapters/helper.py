"""Unpack helpers: forked processes, one job each, whose answers nobody trusts."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.to_thread

from common import errors
from common.observe.log import get_logger
from common.sys import linux
from snapshotd.adapters.nursery import Nursery
from snapshotd.diff.answer import Failed, NonsenseError, Unpacked, read
from snapshotd.diff.unpack import MAX_ANSWER_BYTES
from snapshotd.ports import UnpackJob

_PIECE_BYTES = 64 << 10
_log = get_logger("unpack")


class HelperUnpacker:
    """Runs unpack jobs, each in a process of its own.

    Args:
        nursery: forks them.
        timeout_s: a job that takes longer is killed.
    """

    def __init__(self, nursery: Nursery, timeout_s: float) -> None:
        self._nursery, self._timeout_s = nursery, timeout_s

    async def unpack(self, job: UnpackJob) -> Unpacked:
        """Unpack a blob into an empty directory; see ports.Unpacker."""
        try:
            with anyio.fail_after(self._timeout_s):
                said = await self._ask(job)
        except TimeoutError as exc:
            message = f"{job.name}: unpacking took longer than {self._timeout_s:g} s"
            raise errors.DeadlineExceededError(message) from exc
        if isinstance(said, Failed):
            raise said.as_error(job.name, str(job.target.parent.parent))
        return said

    async def _ask(self, job: UnpackJob) -> Unpacked | Failed:
        request = {
            "media_type": job.media_type,
            "algorithm": job.diff_id.algorithm,
            "hex": job.diff_id.hex,
            "max_entries": job.max_entries,
            "max_bytes": job.max_bytes,
        }
        with _closed(await anyio.to_thread.run_sync(_open, job)) as (blob, root):
            answer, write_end = os.pipe2(os.O_CLOEXEC)
            with _closed([answer]):
                with _closed([write_end]):
                    helper = await self._nursery.begin(request, [blob, write_end, root])
                try:
                    raw = await _read(answer)
                finally:
                    await self._nursery.end(helper)
        if not raw:
            kind = errors.UnavailableError if helper.orphaned else errors.InternalError
            raise kind(f"{job.name}: its helper ended {helper.how}")
        try:
            return read(raw)
        except NonsenseError as exc:
            _log.error("helper.nonsense", name=job.name, nonsense=str(exc), ended=helper.how)
            raise errors.InternalError(f"{job.name}: its helper answered nonsense ({exc})") from exc


@contextmanager
def _closed(fds: list[int]) -> Iterator[list[int]]:
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def _open(job: UnpackJob) -> list[int]:
    """The blob, and the target as a mount of its own."""
    blob = os.open(job.blob, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(blob).st_mode):
            raise errors.InvalidArgumentError(f"{job.name}: {job.blob} is no file")
        return [blob, linux.open_tree(str(job.target))]
    except BaseException:
        os.close(blob)
        raise


async def _read(fd: int) -> bytes:
    """All that comes, up to one byte more than an answer may have."""
    os.set_blocking(fd, False)
    raw = bytearray()
    while len(raw) <= MAX_ANSWER_BYTES:
        await anyio.wait_readable(fd)
        try:
            piece = os.read(fd, _PIECE_BYTES)
        except BlockingIOError:
            continue
        if not piece:
            break
        raw += piece
    return bytes(raw)
