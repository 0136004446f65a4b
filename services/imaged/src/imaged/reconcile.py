"""At start and every hour: records against blobs, and what nobody needs any more goes."""

import anyio

from common.errors import SlipwayError
from common.events.schema import NodeRepaired
from common.observe.log import get_logger
from common.records import RecordStore
from imaged.adapters.content_local import LocalContent
from imaged.collection import Collector, Rules
from imaged.leases import Leases
from imaged.record import ImageRecord
from imaged.settings import Settings

EVERY_S = 3600.0
_log = get_logger("imaged")


async def repair(records: RecordStore[ImageRecord], content: LocalContent) -> list[str]:
    """Drop the records of images whose blobs are missing or short, with an event each; before serving.

    A layer's blob may be missing: another image may have brought the layer in unpacked. snapshotd is not
    asked, since it may start later; a pull or a container finds out.
    """
    dropped = []
    for record in records.all():
        sizes = {record.id: record.config_size_bytes}
        blobs = (*record.layers, *record.others)
        sizes |= {blob.digest: blob.size_bytes for blob in blobs if content.has(blob.digest)}
        bad = [digest for digest, size in sizes.items() if content.size(digest) != size]
        if bad:
            what = f"image record dropped: blob {bad[0]} is missing or has another size"
            _log.warning("image.dropped", image_id=record.id, names=record.names, blobs=bad)
            await content.delete(digest for digest in bad if content.has(digest))
            await records.delete(record.id, NodeRepaired(id=record.id, service="imaged", what=what))
            dropped.append(record.id)
    return dropped


async def sweep_for_ever(leases: Leases, collector: Collector, settings: Settings) -> None:
    """Remove old unfinished and unreferenced blobs, orphaned layers and images by the rules, now and every hour."""
    rules = Rules(
        tagged=True,
        older_than_s=settings.gc_max_age_s,
        keep_last=settings.gc_keep_last,
        max_bytes=settings.gc_max_bytes,
    )
    while True:
        try:
            if settings.gc_max_bytes or settings.gc_max_age_s:
                await collector.collect(rules, dry_run=False)
            else:
                await collector.note_use()
            await leases.collect_layers()
            await leases.make_room()
            await leases.collect_blobs(settings.partial_max_age_s)
        except SlipwayError as exc:
            _log.warning("sweep.failed", error=exc.message)
        await anyio.sleep(EVERY_S)
