"""Removal in the background: a rename now, `rm -rf` when there is time.

rm works through trees of any depth with a handful of file descriptors, and can be killed.
"""

import secrets
import subprocess
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from common.observe.log import get_logger
from common.sys.threads import Together

_WAITING = 1024
"""Paths that are kept in memory; beyond that, the directory is listed again."""
_AT_ONCE = 256
"""Paths of one command: a command for each layer costs more than removing a small one."""
AGAIN_S = 30.0
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
        self._waiting: list[Path] = []
        self._more = False
        self._removing = False
        self._together = Together()
        directory.mkdir(mode=0o700, exist_ok=True)

    async def throw(self, path: Path) -> None:
        """Take a directory from its place; idempotent.

        Raises:
            OSError: with the path.
        """
        target = self._directory / f"{path.name}.{secrets.token_hex(4)}"
        try:
            await self._together.run(partial(path.rename, target))
        except FileNotFoundError:
            return
        if len(self._waiting) < _WAITING:
            self._soon(target)
        else:
            self._more = True

    async def empty(self) -> None:
        """Remove what an earlier run left here."""
        self._soon(*self._directory.iterdir())

    def _soon(self, *paths: Path) -> None:
        self._waiting += paths
        if self._waiting and not self._removing:
            self._removing = True
            self._group.start_soon(self._remove)

    async def _remove(self) -> None:
        try:
            while now := await self._next():
                del self._waiting[:_AT_ONCE]
                command = ["rm", "-rf", "--one-file-system", "--", *map(str, now)]
                try:
                    done = await anyio.run_process(
                        command, check=False, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
                    )
                except OSError as exc:  # no process can be had now
                    await self._later(str(exc))
                    continue
                if done.returncode:
                    _log.warning("trash.left", error=done.stderr.decode(errors="replace")[:500])
        finally:
            self._removing = False

    async def _next(self) -> list[Path]:
        while self._more and not self._waiting:
            try:
                found = await anyio.to_thread.run_sync(lambda: list(self._directory.iterdir()))
            except OSError as exc:
                await self._later(str(exc))
                continue
            self._more = False
            self._waiting += found
        return self._waiting[:_AT_ONCE]

    async def _later(self, why: str) -> None:
        """Look again at what lies here in a while."""
        _log.warning("trash.waits", error=why)
        self._more = True
        await anyio.sleep(AGAIN_S)
