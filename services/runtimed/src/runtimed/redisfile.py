"""Redis without its file while the disk is full: it refuses every change that it cannot append there.

Then no pod could be ended, and no image removed, so a kubelet that evicts would never get room. Redis has all in
memory, and writes the whole file anew when there is room again. What it forgets when it dies meanwhile is found as
ever: records from their copies, and what they do not know from the machine. What was removed meanwhile its old file brings
back: such a container is EXITED once runtimed has been started again as well, and can be removed.
"""

import os
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from redis.asyncio import Redis

from common.errors import UnavailableError
from common.observe.log import get_logger
from common.records.redis import answer, appends

LOW_BYTES, ROOM_BYTES = 4 << 20, 16 << 20
"""With less than the first it goes on without its file; with the second there is room for all that it holds."""
LOOK_S = 2.0
_log = get_logger("runtimed")


class RedisFile:
    """The append-only file of the node's own Redis, which has a directory beside ours; another's is let alone."""

    def __init__(self, redis: "Redis", data_dir: str) -> None:
        self._redis = redis
        self._directory = Path(data_dir, "redis").resolve()  # as Redis tells it
        self._written = False

    async def run(self) -> None:
        """Look for ever."""
        while True:
            try:
                await self.look()
            except (UnavailableError, OSError) as exc:
                _log.warning("redis.unseen", error=str(exc))
            await anyio.sleep(LOOK_S)

    async def look(self) -> None:
        """Give up the file when there is no room, and have it written when there is."""
        room = await anyio.to_thread.run_sync(_free, self._directory)
        if room is None or (self._written and room >= LOW_BYTES) or not await self._is_own():
            return
        self._written = await appends(self._redis)
        if self._written and room < LOW_BYTES:
            await answer(self._redis.config_set("appendonly", "no"))
            self._written = False
            _log.error("redis.file_left", free_bytes=room)
        elif not self._written and room >= ROOM_BYTES:
            await answer(self._redis.config_set("appendonly", "yes"))
            self._written = True
            _log.warning("redis.file_written", free_bytes=room)

    async def _is_own(self) -> bool:
        found: Any = await answer(self._redis.config_get("dir"))
        return str(self._directory) in map(os.fsdecode, found.values())


def _free(directory: Path) -> int | None:
    """Bytes that a server whose directory it is can still write there; None when there is no such directory. Blocking."""
    try:
        found, owner = os.statvfs(directory), directory.stat().st_uid
    except FileNotFoundError:
        return None
    return (found.f_bavail if owner else found.f_bfree) * found.f_frsize  # some are kept for root
