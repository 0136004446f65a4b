"""What a container changed becomes a layer, and with the image below it a new image."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from isal import isal_zlib

from common.digest import Digest
from common.errors import FailedPreconditionError
from common.events.schema import ImageCommitted
from common.observe.log import get_logger
from common.observe.trace import span
from imaged import instructions
from imaged import manifest as documents
from imaged.bringing import Bringing
from imaged.catalog import Catalog, tag_of
from imaged.leases import Leases, Needs
from imaged.manifest import Descriptor, Manifest, Platform
from imaged.ports import Content, Credentials, Layers, Workplace, WrittenDiff
from imaged.record import ImageRecord
from imaged.resolving import Resolved
from imaged.whole import Whole

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_PIECE_BYTES = 1 << 20
_LEVEL = 2
_log = get_logger("imaged")


@dataclass(frozen=True, slots=True)
class Wish:
    """What to make of which container."""

    snapshot: str
    """The container's; empty when only the config changes."""
    image: str
    """What the container was made from."""
    name: str = ""
    author: str = ""
    message: str = ""
    created_by: str = ""
    """For the history."""
    changes: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    created_ns: int = 0
    """When it is said to be made."""
    steps: tuple[str, ...] = ()
    """Changes of before, each with a line of its own in the history."""
    clamp_times: bool = False
    """Files in the new layer are no younger than the image is said to be."""
    dry_run: bool = False
    """Only refuse what can be refused before the container is read."""


class Commits:
    """Makes images of containers.

    Args:
        catalog: has the image below, and gets the new one.
        leases: keep what comes while it has no image yet.
        content: blobs.
        layers: what containers wrote.
        whole: brings what is missing of the image below.
        bringing: has the new layer unpacked.
        workplace: gives directories to work in.
        want: the platform.
    """

    def __init__(
        self,
        catalog: Catalog,
        leases: Leases,
        content: Content,
        layers: Layers,
        whole: Whole,
        bringing: Bringing,
        workplace: Workplace,
        want: Platform,
    ) -> None:
        self._catalog, self._leases, self._content = catalog, leases, content
        self._layers, self._whole, self._bringing = layers, whole, bringing
        self._workplace, self._want = workplace, want

    async def commit(self, wish: Wish) -> AsyncIterator[ImageRecord | None]:
        """Make an image; the same container, wish and time give the same image.

        Yields:
            None once what the container wrote has been read, so that it may write again; then the image. Nothing
            of a dry run.

        Raises:
            NotFoundError: the container's image or its snapshot is not here.
            InvalidArgumentError: the name or a change is malformed.
            FailedPreconditionError: the snapshot stands on other layers than the image has, or no layer can tell it.
            AbortedError: the container wrote meanwhile.
        """
        name = tag_of(wish.name) if wish.name else ""
        base = self._catalog.find(wish.image)
        if base.artifact_type:
            raise FailedPreconditionError(
                f"image {wish.image}: it is an artifact of type {base.artifact_type!r}: no image stands on it"
            )
        if wish.dry_run:
            _config(msgspec.json.decode(await self._content.read(base.id)), wish, "")
            return
        needs = Needs()
        try:
            with self._leases.hold(needs), span("imaged.image.commit", {"slipway.snapshot": wish.snapshot}):
                needs.add(base)
                await self._check(wish, base)
                async with self._workplace.directory() as directory:
                    written = await self._read(wish, f"{directory}/diff")
                    yield None
                    await self._whole.complete(base, needs, Credentials())
                    config, manifest = await self._written(wish, base, needs, directory, written)
                digest, body = documents.written(manifest)
                needs.digests |= {manifest.config.digest, str(digest)}
                await self._content.put(Digest.parse(manifest.config.digest), config)
                await self._content.put(digest, body)
                found = Resolved(digest, digest, manifest, (str(digest),))
                work = self._bringing.of(name or manifest.config.digest, found, needs, self._want)
                record = await work.run(None, ())
                event = ImageCommitted(id=record.id, reference=name, container_id=wish.snapshot)
                _log.info("image.committed", image_id=record.id, name=name, snapshot=wish.snapshot)
                kept = await self._catalog.keep(record, event, tags=(name,) if name else ())
            yield kept
        finally:
            await self._leases.collect(needs.digests, needs.diff_ids)

    async def _check(self, wish: Wish, base: ImageRecord) -> None:
        for stack in await self._layers.list():
            if stack.key == wish.snapshot and tuple(stack.diff_ids) != base.diff_ids:
                raise FailedPreconditionError(
                    f"container {wish.snapshot} does not stand on the layers of image {base.id}"
                )

    async def _read(self, wish: Wish, path: str) -> WrittenDiff | None:
        """What the container changed, as an uncompressed layer; None for no container, or nothing."""
        if not wish.snapshot:
            return None
        max_mtime_s = wish.created_ns // 10**9 if wish.clamp_times else 0
        written = await self._layers.write_diff(wish.snapshot, path, wish.ignore, max_mtime_s=max_mtime_s)
        return written if written.entries else None

    async def _written(
        self, wish: Wish, base: ImageRecord, needs: Needs, directory: str, written: WrittenDiff | None
    ) -> tuple[bytes, Manifest]:
        """The new config and manifest; the new layer is stored by then."""
        layers = [Descriptor(b.digest, b.size_bytes, b.media_type) for b in base.layers]
        if written:
            layer = await anyio.to_thread.run_sync(_compress, f"{directory}/diff", f"{directory}/layer")
            needs.digests.add(layer.digest)
            needs.diff_ids.add(written.diff_id)
            await self._content.adopt(layer, f"{directory}/layer")
            layers.append(layer)
        old = msgspec.json.decode(await self._content.read(base.id))
        config = msgspec.json.encode(_config(old, wish, written.diff_id if written else ""))
        digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
        return config, Manifest(Descriptor(digest, len(config), CONFIG_TYPE), tuple(layers))


def _config(old: dict[str, Any], wish: Wish, diff_id: str) -> dict[str, Any]:
    """The config of the image below, with what is new; what a container of a build left in it goes."""
    created = datetime.fromtimestamp(wish.created_ns // 10**9, UTC).isoformat().replace("+00:00", "Z")
    inner = old.get("config") or {}
    for change in (*wish.steps, *wish.changes):
        inner = instructions.apply(inner, change)
    step = {"created": created, "created_by": wish.created_by, "author": wish.author, "comment": wish.message}
    before = list(old.get("history") or [])
    rootfs = old["rootfs"]
    told = sum(not entry.get("empty_layer") for entry in before)
    # layers that nobody told of, so that the new step means the new layer
    before += [{}] * (len(rootfs.get("diff_ids") or []) - told)
    history = before + [{"created": created, "created_by": text, "empty_layer": True} for text in wish.steps]
    if wish.snapshot or not wish.steps:
        history.append({key: value for key, value in step.items() if value})
        if not diff_id:
            history[-1]["empty_layer"] = True
    diff_ids = [*(rootfs.get("diff_ids") or []), *([diff_id] if diff_id else [])]
    kept = {k: v for k, v in old.items() if k not in ("container", "container_config", "id", "parent")}
    author = {"author": wish.author} if wish.author else {}
    return (
        kept
        | author
        | {
            "created": created,
            "config": inner,
            "history": history,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    )


def _compress(source: str, target: str) -> Descriptor:
    """A file as gzip, without name and time. Blocks."""
    digest, size = hashlib.sha256(), 0
    packer = isal_zlib.compressobj(_LEVEL, wbits=31)
    with Path(source).open("rb") as body, Path(target).open("xb") as out:
        while True:
            piece = body.read(_PIECE_BYTES)
            packed = packer.compress(piece) if piece else packer.flush()
            digest.update(packed)
            size += out.write(packed)
            if not piece:
                break
    return Descriptor(f"sha256:{digest.hexdigest()}", size, LAYER_TYPE)
