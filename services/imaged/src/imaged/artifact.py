"""The pull of an artifact: its blobs come here, and become one layer of files, so that a volume can show them.

What the files are is between those who made the artifact and those who mount it. Each is called as its title says
(org.opencontainers.image.title), or else by its digest.
"""

import hashlib
import tarfile
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import IO

import anyio.to_thread

from common.clock import now_ns
from common.errors import InvalidArgumentError, SlipwayError
from imaged.leases import Leases, Needs
from imaged.manifest import EMPTY_TYPE, Descriptor
from imaged.ports import Content, Layers, Repository, Workplace
from imaged.pull import LayerStatus, UntilWhole, first, keep_all
from imaged.record import ImageRecord
from imaged.resolving import Resolved, recorded

_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_MAX_PART = 255


class Artifact:
    """Brings the blobs of one manifest here, and has their files unpacked; see `imaged.pull.Unpacking`."""

    def __init__(
        self,
        image: str,
        found: Resolved,
        *,
        content: Content,
        layers: Layers,
        leases: Leases,
        needs: Needs,
        workplace: Workplace,
        until_whole: UntilWhole,
    ) -> None:
        self._image, self._found = image, found
        self._content, self._layers, self._workplace = content, layers, workplace
        self._leases, self._needs, self._until_whole = leases, needs, until_whole
        self.statuses = [LayerStatus(blob.digest, blob.size) for blob in found.manifest.layers]
        self.statuses += [LayerStatus(blob.digest, blob.size) for blob in found.beside.blobs.values()]

    async def run(self, repository: Repository | None, known: Collection[str]) -> ImageRecord:
        """Do it all; what is known of other images' layers says nothing about files."""
        manifest = self._found.manifest
        files = files_of(self._image, manifest.layers, manifest.titles)
        blobs = {blob.digest: blob for blob in (manifest.config, *manifest.layers)}
        all_blobs = blobs | self._found.beside.blobs
        told: dict[str, list[LayerStatus]] = defaultdict(list)
        for status in self.statuses:
            told[status.digest].append(status)
        wanted = {blob: told[digest] for digest, blob in all_blobs.items()}
        self._needs.digests |= {*all_blobs, *self._found.kept}
        failure: SlipwayError | None = None
        try:
            await keep_all(repository, self._content, wanted, 0, self._until_whole)
        except* SlipwayError as failures:
            failure = first(failures)
        if failure:
            raise failure
        diff_id = await self._unpacked(files)
        return ImageRecord(
            id=str(self._found.manifest_digest),
            manifest_digest=str(self._found.manifest_digest),
            config_size_bytes=self._content.size(str(self._found.manifest_digest)) or 0,
            documents=self._found.kept,
            diff_ids=(diff_id,),
            layers=tuple(map(recorded, blobs.values())),
            others=self._found.others,
            platform=self._found.platform,
            artifact_type=manifest.artifact_type,
            pulled_at_ns=now_ns(),
        )

    async def _unpacked(self, files: dict[str, str]) -> str:
        """The diff ID of the layer of the files, which snapshotd has then."""
        async with self._workplace.directory() as directory:
            path = f"{directory}/files"
            sources = {name: self._content.path(digest) for name, digest in files.items()}
            diff_id, size_bytes = await anyio.to_thread.run_sync(_packed, sources, path)
            if not await self._leases.count_on(self._needs, [diff_id]):
                await self._layers.apply_layer(
                    diff_id=diff_id,
                    digest=diff_id,
                    blob_path=path,
                    media_type=_LAYER_TYPE,
                    size_bytes=size_bytes,
                )
        return diff_id


def files_of(image: str, layers: Iterable[Descriptor], titles: Iterable[str]) -> dict[str, str]:
    """The digests of an artifact's files by their names. Pure.

    Raises:
        InvalidArgumentError: a name leads out, is another file's, or is below one.
    """
    found: dict[str, str] = {}
    for layer, title in zip(layers, titles, strict=True):
        if layer.media_type == EMPTY_TYPE:
            continue
        name = title or layer.digest.replace(":", "-")
        parts = name.split("/")
        wrong = any(part in ("", ".", "..") or len(part.encode()) > _MAX_PART for part in parts)
        if wrong or "\0" in name:
            raise InvalidArgumentError(f"image {image}: its file {name[:200]!r} has no name for a file")
        if found.setdefault(name, layer.digest) != layer.digest:
            raise InvalidArgumentError(f"image {image}: two of its files are called {name!r}")
    for name in found:
        above = name.split("/")
        for count in range(1, len(above)):
            if "/".join(above[:count]) in found:
                raise InvalidArgumentError(f"image {image}: its file {name!r} is below another file")
    return found


class _Hashed:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.whole = file, hashlib.sha256()

    def write(self, piece: bytes) -> int:
        self.whole.update(piece)
        return self._file.write(piece)

    def tell(self) -> int:
        return self._file.tell()


def _packed(sources: dict[str, str], path: str) -> tuple[str, int]:
    """Write files as a tar that is always the same; returns its digest and size in bytes. Blocks."""
    directories = {"/".join(name.split("/")[:n]) for name in sources for n in range(1, name.count("/") + 1)}
    with Path(path).open("xb") as out:
        hashed = _Hashed(out)
        with tarfile.open(fileobj=hashed, mode="w", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
            for name in sorted({*directories, *sources}):
                info = tarfile.TarInfo(name)
                if name in directories:
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(info)
                    continue
                with Path(sources[name]).open("rb") as body:
                    info.size, info.mode = Path(sources[name]).stat().st_size, 0o444
                    tar.addfile(info, body)
        size_bytes = out.tell()
    return f"sha256:{hashed.whole.hexdigest()}", size_bytes
