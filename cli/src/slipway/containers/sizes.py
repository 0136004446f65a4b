"""What containers wrote into their root filesystems."""

from collections.abc import Sequence

from slipway.connect import snapshotd


async def written(run_dir: str, container_ids: Sequence[str]) -> dict[str, int]:
    """Bytes on the disk, by container; 0 for one that has no snapshot."""
    async with snapshotd(run_dir) as client:
        usages = (await client.usage(container_ids)).usages
    return dict.fromkeys(container_ids, 0) | {usage.key: usage.used_bytes for usage in usages}
