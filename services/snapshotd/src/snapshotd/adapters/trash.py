"""Removal in the background: a rename now, `rm -rf` when there is time.

rm works through trees of any depth with a handful of file descriptors, and can be killed.
"""

import secrets
import subprocess
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from common.observe.log import get_logger

_WAITING = 1024
_log = get_logger("trash")


class Trash:
    """What is thrown in is gone from its place at once, and from the disk soon.

    Args:
        directory: on the same filesystem as what is thrown in.
        task_group: removes in it.
    """

    def __init__(self, directory: Path, task_group: TaskGroup) -> None:
        self._directory = directory
        self._group = task_group
        self._limiter = anyio.CapacityLimiter(1)
        directory.mkdir(mode=0o700, exist_ok=True)

    async def throw(self, path: Path) -> None:
        """Take a directory from its place; idempotent.

        Raises:
            OSError: with the path.
        """
        target = self._directory / f"{path.name}.{secrets.token_hex(4)}"
        try:
            await anyio.to_thread.run_sync(path.rename, target)
        except FileNotFoundError:
            return
        if self._limiter.statistics().tasks_waiting < _WAITING:
            self._group.start_soon(self._remove, target)

    async def empty(self) -> None:
        """Remove what an earlier run left here."""
        for path in self._directory.iterdir():
            self._group.start_soon(self._remove, path)

    async def _remove(self, path: Path) -> None:
        async with self._limiter:
            command = ["rm", "-rf", "--one-file-system", "--", str(path)]
            done = await anyio.run_process(
                command, check=False, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
            )
            if done.returncode:
                _log.warning("trash.left", path=str(path), error=done.stderr.decode(errors="replace")[:500])
