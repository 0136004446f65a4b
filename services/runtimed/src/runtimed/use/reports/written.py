"""What containers have written, as snapshotd counts it."""

from collections.abc import Set as AbstractSet

import anyio

from common.errors import SlipwayError
from common.observe.log import get_logger
from runtimed.ports import Snapshots, SnapshotUse

ANSWER_S = 5.0
"""How long a reading waits: a kubelet gets nothing at all of a node whose answer is late, and evicts nobody."""
_log = get_logger("runtimed")


class Written:
    """Readings; while snapshotd is away or stands still, the last one of each container holds, with its time."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._mountpoint = ""
        self._known: dict[str, SnapshotUse] = {}

    async def usage(self, keys: list[str]) -> tuple[str, dict[str, SnapshotUse]]:
        """As `Snapshots.usage`; the filesystem is "" as long as nobody has told it."""
        if not keys:
            return self._mountpoint, {}
        try:
            with anyio.fail_after(ANSWER_S):
                self._mountpoint, found = await self._snapshots.usage(keys)
        except (SlipwayError, TimeoutError) as exc:
            _log.warning("usage.unknown", error=str(exc) or f"no answer within {ANSWER_S:.0f} s")
            return self._mountpoint, {key: self._known[key] for key in keys if key in self._known}
        self._known |= found
        return self._mountpoint, found

    def keep(self, keys: AbstractSet[str]) -> None:
        """Forget all others."""
        self._known = {key: use for key, use in self._known.items() if key in keys}
