"""What containers have written, as snapshotd counts it."""

from common.errors import SlipwayError
from common.observe.log import get_logger
from runtimed.ports import Snapshots, SnapshotUse

_log = get_logger("runtimed")


async def usage(snapshots: Snapshots, keys: list[str]) -> tuple[str, dict[str, SnapshotUse]]:
    """As `Snapshots.usage`; nothing is known while snapshotd is away: the rest is worth having without it."""
    if not keys:
        return "", {}
    try:
        return await snapshots.usage(keys)
    except SlipwayError as exc:
        _log.warning("usage.unknown", error=exc.message)
        return "", {}
