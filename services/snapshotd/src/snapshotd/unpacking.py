"""A layer's directory, from its blob: unpacked beside its place, written out, and only then given its name."""

import secrets
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from common.digest import Digest
from common.failpoint import failpoint
from common.observe.trace import span
from common.sys.files import sync_directory
from snapshotd.diff.answer import Unpacked
from snapshotd.diff.finish import finish
from snapshotd.disk import DiskSync
from snapshotd.faults import disk_faults
from snapshotd.ports import Bin, Images, Unpacker, UnpackJob
from snapshotd.records import LayerRecord
from snapshotd.store import IMAGE, NEW_PREFIX, TREE, Places


@dataclass(frozen=True, slots=True)
class Blob:
    """What ApplyLayer was asked for."""

    diff_id: Digest
    digest: str
    path: str
    media_type: str


@dataclass(frozen=True)
class Bounds:
    """What a layer may be at most, and how many are unpacked at once."""

    max_entries: int
    max_bytes: int
    max_unpacks: int


class Unpacking:
    """Makes the directories of layers, and what is in them; knows no records.

    Args:
        places: where layers lie.
        unpacker: unpacks blobs.
        trash: takes what is left of a try.
        images: makes layers into EROFS images.
        only_images: keep new layers as images, and not as trees.
        sync: writes out before a record says so.
        bounds: bounds on layers and on work at the same time.
    """

    def __init__(
        self,
        *,
        places: Places,
        unpacker: Unpacker,
        trash: Bin,
        images: Images,
        only_images: bool,
        sync: DiskSync,
        bounds: Bounds,
    ) -> None:
        self._places, self._unpacker, self._trash = places, unpacker, trash
        self._images, self._sync, self._bounds = images, sync, bounds
        self.only_images = only_images
        self._unfinished: set[Path] = set()
        self._limiter = anyio.CapacityLimiter(bounds.max_unpacks)

    def unfinished(self) -> dict[str, tuple[Path, tuple[int, int]]]:
        """The directories of layers that are being unpacked, as `usage.UsageCache` wants them."""
        return {path.name: (path, (0, 0)) for path in self._unfinished}

    async def check_images(self) -> None:
        """Whether this machine has EROFS.

        Raises:
            FailedPreconditionError: it has not.
        """
        await anyio.to_thread.run_sync(self._images.check)

    async def layer(self, blob: Blob, *, again: bool) -> Unpacked:
        """Have a layer in its place, on the disk; `again` when it is served from there, so that only what is new moves in.

        Raises:
            SlipwayError: as Layers.apply; nothing stays.
        """
        name = f"layer {blob.digest or blob.diff_id}"
        directory = self._places.layers / f"{NEW_PREFIX}{blob.diff_id.hex}-{secrets.token_hex(4)}"
        with disk_faults(f"{name}: cannot be unpacked into {self._places.layers}"):
            self._unfinished.add(directory)
            try:
                if self.only_images:
                    await self.check_images()
                async with self._limiter:
                    unpacked = await self._lay_out(name, blob, directory / TREE)
                    await failpoint("snapshotd.unpack.laid-out")
                    if self.only_images:
                        size_bytes = await self._write_image(directory)
                        await self._trash.throw(directory / TREE)
                        unpacked = msgspec.structs.replace(unpacked, size_bytes=size_bytes, inodes=1)
                if not self.only_images:
                    # the next layer need not wait for the disk, and one sync serves all that wait
                    await self._sync.sync()
                await anyio.to_thread.run_sync(self._keep, directory, blob.diff_id.hex)
                if again:
                    await self._trash.throw(directory)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._trash.throw(directory)
                raise
            finally:
                self._unfinished.discard(directory)
        return unpacked

    async def diff(self, blob: Blob, target: Path) -> Unpacked:
        """Unpack what becomes no layer into a new directory in a new one, which the caller removes.

        Raises:
            SlipwayError: as Layers.apply.
            OSError: with the path.
        """
        async with self._limiter:
            return await self._lay_out(f"diff {blob.digest}", blob, target)

    async def image(self, layer: LayerRecord) -> int:
        """Make the image of a layer that is a tree; returns its bytes on disk.

        Raises:
            ResourceExhaustedError: the disk is full.
        """
        with disk_faults(f"layer {layer.diff_id}: cannot be made into an image"):
            async with self._limiter:
                return await self._write_image(self._places.layer(layer.id))

    async def _lay_out(self, name: str, blob: Blob, target: Path) -> Unpacked:
        job = UnpackJob(
            name=name,
            blob=blob.path,
            target=target,
            media_type=blob.media_type,
            diff_id=blob.diff_id,
            max_entries=self._bounds.max_entries,
            max_bytes=self._bounds.max_bytes,
        )
        await anyio.to_thread.run_sync(_make, target)
        unpacked = await self._unpacker.unpack(job)
        if unpacked.opaque or unpacked.devices:
            await anyio.to_thread.run_sync(finish, target, unpacked)
        return unpacked

    async def _write_image(self, directory: Path) -> int:
        image = directory / IMAGE
        with span("snapshotd.layer.image", {"slipway.path": str(image)}):
            await self._images.write(directory / TREE, image)
            await self._sync.sync_file(image)
        return (await anyio.Path(image).stat()).st_blocks * 512

    def _keep(self, directory: Path, layer_id: str) -> None:
        """Give a new layer's directory its name; what has it already, since the layer is served, takes what is in it."""
        place = self._places.layer(layer_id)
        if place.exists():
            for name in (TREE, IMAGE):
                if (place / name).exists():  # of a try that was cut off
                    (place / name).rename(directory / f"old-{name}")
                if (directory / name).exists():
                    (directory / name).rename(place / name)
            sync_directory(place)
        else:
            directory.rename(place)
        sync_directory(self._places.layers)


def _make(target: Path) -> None:
    target.parent.mkdir(mode=0o700)
    target.mkdir(mode=0o755)
