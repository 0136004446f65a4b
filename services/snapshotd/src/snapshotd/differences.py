"""Use cases of what snapshots changed: a list, and a layer."""

from collections.abc import Collection, Mapping
from pathlib import Path

import anyio.to_thread

from common.errors import FailedPreconditionError, InvalidArgumentError
from common.observe.trace import span
from common.records import RecordStore
from snapshotd import compose
from snapshotd.diff.changes import Change, Tree, changes
from snapshotd.diff.layer import Written, write_layer
from snapshotd.faults import disk_faults
from snapshotd.layers import Layers
from snapshotd.ports import Snapshotter
from snapshotd.records import SnapshotRecord
from snapshotd.roots import Roots
from snapshotd.store import Places


class Differences:
    """What snapshots changed of their layers.

    Args:
        records: the snapshots' records, loaded.
        layers: what they stand on.
        places: where they lie.
        roots: where the layers' trees are.
        snapshotters: by name.
        max_entries: what has more changes is refused.
    """

    def __init__(
        self,
        records: RecordStore[SnapshotRecord],
        layers: Layers,
        places: Places,
        roots: Roots,
        snapshotters: Mapping[str, Snapshotter],
        max_entries: int,
    ) -> None:
        self._records, self._layers, self._places, self._roots = records, layers, places, roots
        self._snapshotters, self._max_entries = snapshotters, max_entries

    async def changes(self, key: str, ignore: Collection[str]) -> list[Change]:
        """All that a snapshot changed.

        Args:
            key: the snapshot's.
            ignore: absolute paths that do not count while they are empty and no layer has them.

        Raises:
            NotFoundError: there is no such snapshot.
            FailedPreconditionError: it is read-only, or no layer can tell what it holds.
            ResourceExhaustedError: there are too many.
        """
        record = self._writable(key)
        with disk_faults(f"snapshot {key!r}: cannot be read"):
            return await anyio.to_thread.run_sync(lambda: changes(self._tree(record, ignore)))

    async def write(self, key: str, target: str, ignore: Collection[str], *, max_mtime_s: int = 0) -> Written:
        """Write what a snapshot changed as an uncompressed layer into a new file.

        With `max_mtime_s`, nothing in it is younger.

        Raises:
            SlipwayError: as `changes`.
            AbortedError: it changed meanwhile.
            InvalidArgumentError: the target is no absolute path.
        """
        record = self._writable(key)
        if not target.startswith("/"):
            raise InvalidArgumentError(f"path {target!r}: want an absolute one")

        def work() -> Written:
            tree = self._tree(record, ignore)
            return write_layer(Path(target), tree.root, changes(tree), tree.ids, max_mtime_s)

        with (
            span("snapshotd.snapshot.diff", {"slipway.snapshot": key}),
            disk_faults(f"snapshot {key!r}: its layer cannot be written to {target}"),
        ):
            return await anyio.to_thread.run_sync(work)

    def _writable(self, key: str) -> SnapshotRecord:
        record = self._records.get(key)
        if record.readonly:
            raise FailedPreconditionError(f"snapshot {key!r} is read-only: it changes nothing")
        return record

    def _tree(self, record: SnapshotRecord, ignore: Collection[str]) -> Tree:
        snapshotter = self._snapshotters[record.snapshotter]
        strata = compose.strata(self._roots.tree, self._layers.stack(record.diff_ids))
        return Tree(
            root=snapshotter.writable(self._places.snapshot(record.id)),
            whole=snapshotter.whole,
            layers=[stratum.root for stratum in strata],
            looks=compose.with_root(compose.repairs(strata), strata),
            ids=None if snapshotter.whole else record.ids,
            ignore=frozenset(path.strip("/") for path in ignore),
            max_entries=self._max_entries,
        )
