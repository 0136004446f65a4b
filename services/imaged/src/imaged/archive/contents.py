"""What images an archive holds: an OCI layout by its index.json, docker's by its manifest.json. Blocking reads.

A name in an archive is a wish: whether an image gets it is decided elsewhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from common import buildcache
from common.digest import Digest
from common.errors import DataLossError, InvalidArgumentError, NotFoundError
from imaged import manifest as documents
from imaged.archive.inflate import compression
from imaged.catalog import tag_of
from imaged.manifest import EMPTY_DIGEST, Descriptor, Manifest, Platform
from imaged.ports import Spooled, SpooledFile
from imaged.reference import Reference
from imaged.resolving import Resolved
from imaged.signed import carried

MAX_IMAGES = 1000
MAX_SIGNATURES = 50
"""That are read of an archive."""
MAX_DOCUMENTS_BYTES = 64 << 20
"""Of all manifests and indexes of an archive, which are held in memory."""
NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
WHAT = "of the archive"
T = TypeVar("T")


class _Entry(Descriptor, frozen=True):
    annotations: dict[str, str] | None = None


class _Top(msgspec.Struct, frozen=True):
    manifests: list[_Entry] = []


class _Saved(msgspec.Struct, frozen=True, rename="pascal"):
    """An entry of docker's manifest.json."""

    config: str
    layers: list[str] | None = None
    repo_tags: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """An image of the archive, all of its blobs there."""

    names: tuple[str, ...]
    """Normalised."""
    tags: tuple[str, ...]
    """Bare tags, as OCI layouts have them: no names by themselves."""
    resolved: Resolved
    bodies: dict[str, bytes]
    """Its documents by digest, without those of other platforms."""
    files: dict[str, SpooledFile]
    """Its config and layers by digest, and the blobs of other platforms."""
    form: str = "docker-archive"
    """docker-archive or oci-archive, as a signature policy calls it."""
    signed: tuple[tuple[bytes, bytes], ...] = ()
    """Signatures in the archive, of whichever image; see `imaged.signed.signatures`."""


def images_of(archive: Spooled, want: Platform, name: str) -> list[Found]:
    """The images of an archive for a platform.

    Args:
        archive: read to its end.
        want: the platform.
        name: a name for the only image; of several, the repository that their tags belong to.

    Raises:
        InvalidArgumentError: it is no archive of images, a document in it is malformed, or it gives a name that only
            builds give.
        NotFoundError: no image in it is for this platform.
        DataLossError: a blob has another size than its manifest says.
    """
    if archive.find("oci-layout"):
        found = _layout(archive, want)
    elif archive.find("manifest.json"):
        found = _docker(archive, want)
    else:
        _refuse("it has neither index.json with oci-layout nor manifest.json: it is no archive of images")
    if not found:
        _refuse("it has no image")
    renamed = [_renamed(image, name, single=len(found) == 1) for image in found]
    called: set[str] = set()
    for image in renamed:
        for text in image.names:
            if buildcache.is_cache((text,)) and text != buildcache.SCRATCH:
                _refuse(f"an image in it is called {text}, and only builds give such names")
            if text in called:
                _refuse(f"two images in it are called {text}")
        called.update(image.names)
    return renamed


def document_of(archive: Spooled, digest: str) -> bytes:
    """A manifest or an index of an archive.

    Raises:
        InvalidArgumentError: it is not in it, or too large.
    """
    return _read(_found(archive, digest), documents.MAX_MANIFEST_BYTES, digest)


def _layout(archive: Spooled, want: Platform) -> list[Found]:
    top = _decode(archive, "index.json", _Top)
    if len(top.manifests) > MAX_IMAGES:
        _refuse(f"more than {MAX_IMAGES} images")
    found: dict[str, Found] = {}
    signed: list[tuple[bytes, bytes]] = []
    other: NotFoundError | None = None
    left = MAX_DOCUMENTS_BYTES
    for entry in top.manifests:
        notes = entry.annotations or {}
        said = notes.get(REF_NAME, "")
        bare = bool(said) and "/" not in said and ":" not in said
        full = notes.get(NAME) or ("" if bare else said)
        blobs = carried(_read(file_of(archive, entry), documents.MAX_MANIFEST_BYTES, entry.digest))
        if blobs:
            # a signature in the place of an image
            room = MAX_SIGNATURES - len(signed)
            signed += [(_read(file_of(archive, b), b.size, b.digest), value) for b, value in blobs[:room]]
            continue
        try:
            image = _followed(archive, entry, want)
        except NotFoundError as exc:
            other = exc
            continue
        left -= sum(map(len, image.bodies.values()))
        if left < 0:
            _refuse(f"more than {MAX_DOCUMENTS_BYTES} bytes of manifests")
        known = found.get(image.resolved.image_id, image)
        found[image.resolved.image_id] = replace(
            known,
            names=(*known.names, *([tag_of(full)] if full else [])),
            tags=(*known.tags, *([said] if bare else [])),
        )
    if other and not found:
        raise other
    return [replace(image, form="oci-archive", signed=tuple(signed)) for image in found.values()]


def _followed(archive: Spooled, entry: Descriptor, want: Platform) -> Found:
    """From an entry of the index to one platform's image."""
    bodies: dict[str, bytes] = {}
    at: Descriptor = entry
    platform = ""
    for _ in range(documents.MAX_INDEX_DEPTH):
        body = _read(file_of(archive, at), documents.MAX_MANIFEST_BYTES, at.digest)
        bodies[at.digest] = body
        read = documents.parse(WHAT, body, at.media_type)
        if isinstance(read, Manifest):
            files = files_of(archive, (read.config, *read.layers))
            if not read.artifact_type:
                config = _read(file_of(archive, read.config), documents.MAX_CONFIG_BYTES, read.config.digest)
                documents.diff_ids(WHAT, read, config, want)
            top, mine = Digest.parse(entry.digest), Digest.parse(at.digest)
            resolved = Resolved(top, mine, read, tuple(bodies), platform=platform)
            return Found((), (), resolved, bodies, files)
        at = documents.choose(WHAT, read, want)
        if documents.of_another(WHAT, read, at):
            platform = str(want)
    raise InvalidArgumentError(f"archive: indexes within indexes, deeper than {documents.MAX_INDEX_DEPTH}")


def _docker(archive: Spooled, want: Platform) -> list[Found]:
    saved = _decode(archive, "manifest.json", list[_Saved])
    if len(saved) > MAX_IMAGES:
        _refuse(f"more than {MAX_IMAGES} images")
    return [_from_saved(archive, entry, want) for entry in saved]


def _from_saved(archive: Spooled, entry: _Saved, want: Platform) -> Found:
    """Docker's archive has no manifest: one is made, the same each time."""
    config_file = _named_file(archive, entry.config)
    layers = [_named_file(archive, name) for name in entry.layers or []]
    config = Descriptor(config_file.digest, config_file.size, CONFIG_TYPE)
    described = tuple(Descriptor(f.digest, f.size, LAYER_TYPE + _suffix(f)) for f in layers)
    manifest = Manifest(config, described)
    documents.diff_ids(WHAT, manifest, _read(config_file, documents.MAX_CONFIG_BYTES, entry.config), want)
    digest, body = documents.written(manifest)
    resolved = Resolved(digest, digest, manifest, (str(digest),))
    files = {config_file.digest: config_file, **{f.digest: f for f in layers}}
    return Found(tuple(map(tag_of, entry.repo_tags or ())), (), resolved, {str(digest): body}, files)


def _renamed(image: Found, name: str, *, single: bool) -> Found:
    """With the names that are wished for; a bare tag makes one together with `name` only."""
    names = image.names
    if name and single:
        names = (tag_of(name),)
    elif name:
        tags = image.tags or [Reference.parse(text).tag for text in image.names]
        names = tuple(tag_of(f"{name}:{tag}") for tag in tags)
    return replace(image, names=tuple(dict.fromkeys(names)))


def _named_file(archive: Spooled, name: str) -> SpooledFile:
    found = archive.find(name)
    if found is None:
        _refuse(f"manifest.json names {name[:200]!r}, which is not in it")
    return found


def _found(archive: Spooled, name: str) -> SpooledFile:
    digest = Digest.parse(name)
    found = archive.find(f"blobs/{digest.algorithm}/{digest.hex}")
    if found is None:
        _refuse(f"blob {digest} is not in it")
    if found.digest != str(digest):
        raise DataLossError(f"archive: blob {digest} is a link to {found.digest}")
    return found


def file_of(archive: Spooled, descriptor: Descriptor) -> SpooledFile:
    """A blob of an archive.

    Raises:
        InvalidArgumentError: it is not in it.
        DataLossError: it is another.
    """
    found = _found(archive, descriptor.digest)
    if found.size != descriptor.size:
        raise DataLossError(
            f"archive: blob {descriptor.digest} has {found.size} bytes, {descriptor.size} are stated"
        )
    return found


def files_of(archive: Spooled, blobs: Iterable[Descriptor]) -> dict[str, SpooledFile]:
    """Blobs of an archive by digest, without the empty config of artifacts where that is not in it.

    Raises:
        InvalidArgumentError, DataLossError: as `file_of`.
    """
    empty = f"blobs/{EMPTY_DIGEST.algorithm}/{EMPTY_DIGEST.hex}"
    return {
        blob.digest: file_of(archive, blob)
        for blob in blobs
        if blob.digest != str(EMPTY_DIGEST) or archive.find(empty)
    }


def _suffix(file: SpooledFile) -> str:
    with Path(file.path).open("rb") as body:
        kind = compression(body.read(6))
    return f"+{kind}" if kind else ""


def _read(file: SpooledFile, at_most: int, name: str) -> bytes:
    if file.size > at_most:
        _refuse(f"{name} of {file.size} bytes is larger than {at_most}")
    return Path(file.path).read_bytes()


def _decode(archive: Spooled, name: str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(
            _read(_named_file(archive, name), documents.MAX_MANIFEST_BYTES, name), type=kind
        )
    except documents.MALFORMED as exc:
        raise InvalidArgumentError(f"archive: its {name} is malformed: {exc}") from exc


def _refuse(why: str) -> NoReturn:
    raise InvalidArgumentError(f"archive: {why}")
