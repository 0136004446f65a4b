"""What must stay: blobs and layers of images, and of work that is under way. What nobody needs goes."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio

from common.errors import SlipwayError
from common.observe.log import get_logger
from imaged.catalog import Catalog
from imaged.ports import Content, Layers
from imaged.record import ImageRecord

_log = get_logger("imaged")


@dataclass(slots=True, eq=False)
class Needs:
    """Blobs and layers that running work counts on, so that a removal leaves them alone."""

    digests: set[str] = field(default_factory=set)
    diff_ids: set[str] = field(default_factory=set)

    def add(self, record: ImageRecord) -> None:
        self.digests |= record.blobs
        self.diff_ids |= set(record.diff_ids)


class Leases:
    """Counts who needs what, and removes the rest.

    Args:
        catalog: what images need.
        content: blobs.
        layers: unpacked layers.
    """

    def __init__(self, catalog: Catalog, content: Content, layers: Layers) -> None:
        self._catalog = catalog
        self._content = content
        self._layers = layers
        self._held: list[Needs] = []
        self._lock = anyio.Lock()
        """Held while layers are looked up to be counted on, and while they are removed."""

    @contextmanager
    def hold(self, needs: Needs | None = None) -> Iterator[Needs]:
        """A lease for as long as the block runs; it grows by what the block adds to it."""
        needs = needs or Needs()
        self._held.append(needs)
        try:
            yield needs
        finally:
            self._held.remove(needs)

    def needed(self) -> Needs:
        """What an image or running work needs."""
        all_of_it = Needs()
        for record in self._catalog.all():
            all_of_it.add(record)
        for needs in self._held:
            all_of_it.digests |= needs.digests
            all_of_it.diff_ids |= needs.diff_ids
        return all_of_it

    async def count_on(self, needs: Needs, diff_ids: Collection[str]) -> set[str]:
        """Need layers from now on; returns those of them that are here, and stay.

        Raises:
            UnavailableError: snapshotd is away.
        """
        async with self._lock:
            needs.diff_ids |= set(diff_ids)
            if not diff_ids:
                return set()
            return {layer.diff_id for layer in await self._layers.list_layers(sorted(set(diff_ids)))}

    def is_held(self, record: ImageRecord) -> bool:
        """Whether running work counts on an image."""
        return any(record.id in needs.digests for needs in self._held)

    async def in_use(self) -> set[tuple[str, ...]]:
        """The stacks of layers, by diff ID, that snapshots stand on."""
        return {tuple(snapshot.diff_ids) for snapshot in await self._layers.list()}

    async def collect(self, digests: set[str], diff_ids: set[str]) -> None:
        """Remove those of these that nobody needs, to the end. What cannot be removed now, the sweep removes."""
        with anyio.CancelScope(shield=True):
            await self._collect(digests, diff_ids)

    async def _collect(self, digests: set[str], diff_ids: set[str]) -> None:
        async with self._lock:
            needed = self.needed()
            orphans = sorted(diff_ids - needed.diff_ids)
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._content.delete, digests - needed.digests)
                    if orphans:
                        group.start_soon(self._layers.remove_layers, orphans)
            except* SlipwayError as failures:
                errors = [str(failure) for failure in failures.exceptions]
                _log.warning("collection.left", layers=len(orphans), errors=errors)

    async def collect_blobs(self, older_than_s: float, *, dry_run: bool = False) -> dict[str, int]:
        """Remove all blobs that nobody needs and that are older, whole or not, unless it is a dry run; their bytes by digest."""
        gone = await self._content.sweep(lambda: self.needed().digests, older_than_s, dry_run=dry_run)
        if gone and not dry_run:
            _log.info("content.swept", blobs=len(gone))
        return gone

    async def make_room(self) -> None:
        """When there is little room, remove them whatever their age: else the next pull begins with them."""
        try:
            if await self._content.is_scarce():
                await self.collect_blobs(0)
        except SlipwayError as exc:
            _log.warning("sweep.failed", error=exc.message)

    async def collect_layers(self, *, dry_run: bool = False) -> dict[str, int]:
        """Remove all layers that nobody needs, such as those of pulls that failed, unless it is a dry run.

        Returns:
            The bytes of those that go now, by diff ID; others go with the last snapshot that stands on them.
        """
        async with self._lock:
            held = {layer.diff_id: layer.size_bytes for layer in await self._layers.list_layers()}
            stood_on = {diff_id for stack in await self.in_use() for diff_id in stack}
            orphans = sorted(set(held) - self.needed().diff_ids)
            if orphans and not dry_run:
                await self._layers.remove_layers(orphans)
                _log.info("layers.swept", layers=len(orphans))
            return {diff_id: held[diff_id] for diff_id in orphans if diff_id not in stood_on}
