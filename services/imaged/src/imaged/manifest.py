"""Manifests, indexes and configs of OCI and Docker: reading, refusing, choosing a platform. Pure."""

import hashlib
import platform as host
import re
from dataclasses import dataclass
from typing import NoReturn

import msgspec

from common.digest import Digest
from common.errors import InvalidArgumentError, NotFoundError

MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What reading somebody else's JSON raises: also for text that is no UTF-8, and for lists within lists."""
MAX_MANIFEST_BYTES = 4 << 20
MAX_CONFIG_BYTES = 8 << 20
MAX_BLOB_BYTES = 1 << 46
"""64 TiB: sums of so many as an image may have fit what protos and events count in."""
MAX_INDEX_DEPTH = 3
MAX_LAYERS = 1000
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_DOCUMENTS = (*INDEX_TYPES, *MANIFEST_TYPES)
TITLE = "org.opencontainers.image.title"
TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
"""Annotation of an eStargz layer (stargz-snapshotter, docs/estargz.md): without it nothing vouches for its table of contents."""
CHUNKED = ("io.github.containers.zstd-chunked", "io.containers.zstd-chunked")
"""Before `.manifest-checksum` and `.manifest-position`, the annotations of a zstd:chunked layer (containers/storage,
pkg/chunked); the second is that of older writers."""
_POSITION = re.compile(r"([0-9]{1,16}):([0-9]{1,16}):[0-9]{1,16}:1")
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
"""The config of most artifacts (image-spec, "Guidance for an Empty Descriptor"); neither a registry nor an archive need have it."""
EMPTY_DIGEST = Digest("sha256", hashlib.sha256(EMPTY).hexdigest())
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
_CONFIG_TYPES = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
_OLD_CONFIG_TYPES = ("application/octet-stream", "application/json", "text/html", "")
"""What old builders and registries called the config of a Docker image (containerd, images.Config and its handlers)."""
_DOCKER_LAYERS = "application/vnd.docker.image.rootfs."
_LAYER_STEMS = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
_COMPRESSIONS = ("", "+gzip", "+zstd", ".gzip", ".zstd")
LAYER_TYPES = frozenset(stem + suffix for stem in _LAYER_STEMS for suffix in _COMPRESSIONS)
_ALIASES = {
    "x86_64": ("amd64", ""), "x86-64": ("amd64", ""), "aarch64": ("arm64", ""), "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"), "i386": ("386", ""),
}  # fmt: skip
_VARIANTS = {("arm64", ""): "v8", ("arm64", "8"): "v8", ("arm", ""): "v7", ("amd64", "v1"): ""}
"""Of architectures that are one platform with and without it."""
_PLATFORM = re.compile(r"[a-z0-9_.-]{1,64}(/[a-z0-9_.-]{1,64}){0,2}")
_MACHINES = {
    "x86_64": ("amd64", ""), "aarch64": ("arm64", "v8"), "armv7l": ("arm", "v7"), "armv6l": ("arm", "v6"),
    "i386": ("386", ""), "i686": ("386", ""), "ppc64le": ("ppc64le", ""), "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
}  # fmt: skip


class Platform(msgspec.Struct, frozen=True):
    """What an image was built for."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


class Toc(msgspec.Struct, frozen=True):
    """What a manifest says of the table of contents of a layer that can be read in pieces."""

    digest: str
    offset: int = 0
    """In the blob; 0 for eStargz, whose end says it."""
    size: int = 0
    """Compressed."""


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """A blob or document by media type, digest and size."""

    digest: str
    size: int
    media_type: str = ""
    platform: Platform | None = None
    toc: Toc | None = None
    """Of a layer in eStargz or zstd:chunked form. Set by `parse` alone."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One platform's image: a config and its layers, bottom first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str = ""
    """What an artifact is; empty for a container image, which can be run."""
    titles: tuple[str, ...] = ()
    """What the files of an artifact are called, as many as layers; empty where one has no name."""


@dataclass(frozen=True, slots=True)
class Index:
    """A list of manifests, one for each platform."""

    manifests: tuple[Descriptor, ...]


_ABSENT = msgspec.Raw()


class _Entry(Descriptor, frozen=True):
    annotations: msgspec.Raw = _ABSENT
    """As they are: of the millions of things that may be in them only some strings are wanted."""

    @property
    def title(self) -> str:
        return self._annotation(TITLE)

    @property
    def vouched(self) -> Toc | None:
        if not self.media_type.endswith("+zstd"):
            digest = self._annotation(TOC_DIGEST)
            return Toc(digest) if digest else None
        for prefix in CHUNKED:
            digest = self._annotation(f"{prefix}.manifest-checksum")
            found = _POSITION.fullmatch(self._annotation(f"{prefix}.manifest-position"))
            if digest and found:
                offset, size = int(found[1]), int(found[2])
                return Toc(digest, offset, size) if 0 < offset <= self.size - size < self.size else None
        return None

    def _annotation(self, name: str) -> str:
        try:
            return msgspec.json.decode(self.annotations, type=dict[str, str]).get(name, "")
        except MALFORMED:
            return ""


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: list[str] | None = None


class _Config(msgspec.Struct, frozen=True):
    rootfs: _RootFs | None = None
    os: str = ""
    architecture: str = ""


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    artifact_type: str = ""
    manifests: list[Descriptor] | None = None
    config: Descriptor | None = None
    layers: list[_Entry] | msgspec.UnsetType | None = msgspec.UNSET
    fs_layers: msgspec.Raw = _ABSENT

    @property
    def listed(self) -> list[_Entry] | None:
        """The layers; None when it does not speak of them. Go writes an empty list as null."""
        if self.layers is None:
            return [] if self.config else None
        return None if self.layers is msgspec.UNSET else self.layers

    @property
    def is_schema_1(self) -> bool:
        return bytes(self.fs_layers) not in (b"", b"null")


def local_platform() -> Platform:
    """The platform of this machine."""
    architecture, variant = _MACHINES.get(host.machine(), (host.machine(), ""))
    return Platform("linux", architecture, variant)


def platform_of(text: str) -> Platform:
    """A platform by OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, or its architecture alone.

    Raises:
        InvalidArgumentError: it is none.
    """
    if not _PLATFORM.fullmatch(text.lower()):
        raise InvalidArgumentError(f"platform {text[:200]!r}: want OS/ARCHITECTURE, as linux/arm64")
    words = text.lower().split("/")
    read = _known(Platform(*words) if len(words) > 1 else Platform("linux", *words))
    return Platform(
        read.os, read.architecture, _VARIANTS.get((read.architecture, read.variant), read.variant)
    )


def parse(image: str, body: bytes, media_type: str) -> Manifest | Index:
    """Read a manifest or an index.

    Args:
        image: the image, for messages.
        body: the document.
        media_type: what the registry calls it; the document's own mediaType goes first.

    Raises:
        InvalidArgumentError: we do not run such an image.
    """
    document = _decode(image, body)
    kind = document.media_type or media_type.partition(";")[0].strip()
    if document.schema_version == 1 or document.is_schema_1 or kind.startswith(_SCHEMA_1):
        _refuse(image, "its manifest is Docker schema 1, which is no longer supported; push it again")
    if document.manifests is not None:
        if kind in MANIFEST_TYPES:
            _refuse(image, f"its manifest says {kind} but is an index")
        return Index(tuple(_checked(image, d) for d in document.manifests))
    if kind in INDEX_TYPES:
        _refuse(image, f"its index says {kind} but has no manifests")
    if kind and kind not in MANIFEST_TYPES and document.media_type:
        _refuse(image, f"its manifest has the unknown media type {kind!r}")
    if document.config is None or document.listed is None:
        _refuse(image, "its manifest has no config or no layers")
    config = document.config
    if _is_old(kind, config, document.listed):
        config = msgspec.structs.replace(config, media_type=_CONFIG_TYPES[1])
    return _manifest(image, document, config, document.listed)


def links(image: str, body: bytes) -> tuple[list[Descriptor], list[Descriptor]]:
    """The documents and the blobs that a document names, whatever it is for: artifacts too.

    Raises:
        InvalidArgumentError: it is malformed, or Docker schema 1.
    """
    document = _decode(image, body)
    if document.is_schema_1 or (document.manifests is None and document.listed is None):
        _refuse(image, "its manifest is of a form that cannot be copied")
    config = [document.config] if document.config else []
    blobs = [*config, *(document.listed or [])]
    return [_checked(image, d) for d in document.manifests or []], [_checked(image, d) for d in blobs]


def kind_of(body: bytes) -> str:
    """The media type of a document that `parse` took: its own, or else what its form says."""
    document = _decode("", body)
    return document.media_type or (MANIFEST_TYPES if document.manifests is None else INDEX_TYPES)[0]


def choose(image: str, index: Index, want: Platform) -> Descriptor:
    """The manifest of an index that suits a platform best.

    Raises:
        NotFoundError: none suits.
    """
    ranked = [
        (rank, n, d)
        for n, d in enumerate(index.manifests)
        if (rank := _rank(d.platform, want)) is not None and (not d.media_type or d.media_type in _DOCUMENTS)
    ]
    if not ranked:
        have = ", ".join(sorted({str(d.platform) for d in index.manifests if d.platform})) or "none"
        raise NotFoundError(f"image {image}: no manifest for {want}; the index has {have}")
    return min(ranked)[2]


def of_another(image: str, index: Index, chosen: Descriptor) -> bool:
    """Whether this machine by itself would not choose this manifest of an index."""
    try:
        return choose(image, index, local_platform()).digest != chosen.digest
    except NotFoundError:
        return True


def suits(config: bytes, want: Platform) -> bool:
    """Whether a config, which `diff_ids` took, is for a platform or does not say."""
    return _suits(msgspec.json.decode(config, type=_Config), want)


def diff_ids(image: str, manifest: Manifest, config: bytes, want: Platform) -> list[str]:
    """The diff IDs of a config, as many as the manifest has layers.

    Raises:
        InvalidArgumentError: the config does not fit the manifest.
        NotFoundError: the image is for another platform.
    """
    try:
        read = msgspec.json.decode(config, type=_Config)
    except MALFORMED as exc:
        raise InvalidArgumentError(f"image {image}: its config is malformed: {exc}") from exc
    if read.rootfs is None:
        _refuse(image, "its config has no rootfs")
    found = read.rootfs.diff_ids or []
    if len(found) != len(manifest.layers):
        _refuse(image, f"its config has {len(found)} diff IDs for {len(manifest.layers)} layers")
    if not _suits(read, want):
        wanted = f"this node is {want}" if want == local_platform() else f"and {want} was asked for"
        raise NotFoundError(f"image {image}: it is for {Platform(read.os, read.architecture)}, {wanted}")
    return [str(_digest(image, text)) for text in found]


def written(manifest: Manifest) -> tuple[Digest, bytes]:
    """An OCI manifest of this config and these layers; the same always gives the same bytes."""
    described = [
        {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}
        for blob in (manifest.config, *manifest.layers)
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPES[0],
        "config": described[0],
        "layers": described[1:],
    }
    body = msgspec.json.encode(document)
    return Digest("sha256", hashlib.sha256(body).hexdigest()), body


def _decode(image: str, body: bytes) -> _Document:
    try:
        document = msgspec.json.decode(body, type=_Document)
    except MALFORMED as exc:
        raise InvalidArgumentError(f"image {image}: its manifest is malformed: {exc}") from exc
    if document.manifests is not None and (document.listed is not None or document.config is not None):
        # two readers of such a document could see two images (GHSA-77vh-xpmg-72qh)
        _refuse(image, "its manifest has both manifests and layers")
    return document


def _manifest(image: str, document: _Document, config: Descriptor, layers: list[_Entry]) -> Manifest:
    if config.size > MAX_CONFIG_BYTES:
        _refuse(image, f"its config of {config.size} bytes is larger than {MAX_CONFIG_BYTES}")
    if len(layers) > MAX_LAYERS:
        _refuse(image, f"it has {len(layers)} layers, more than {MAX_LAYERS}")
    if config.media_type not in _CONFIG_TYPES:
        return Manifest(
            _checked(image, config),
            tuple(_checked(image, layer) for layer in layers),
            # image-spec, "Guidelines for Artifact Usage"
            document.artifact_type or config.media_type or "unknown",
            tuple(layer.title for layer in layers),
        )
    for layer in layers:
        if layer.media_type.endswith("+encrypted"):
            _refuse(
                image, f"its layer {layer.digest} is encrypted ({layer.media_type}), which is not supported"
            )
        if layer.media_type not in LAYER_TYPES:
            _refuse(image, f"its layer {layer.digest} has the unknown media type {layer.media_type!r}")
    return Manifest(_checked(image, config), tuple(_checked(image, layer) for layer in layers))


def _is_old(kind: str, config: Descriptor, layers: list[_Entry]) -> bool:
    """Whether it is a Docker image whose config has a type of its own."""
    return (
        kind == MANIFEST_TYPES[1]
        and config.media_type in _OLD_CONFIG_TYPES
        and bool(layers)
        and all(layer.media_type.startswith(_DOCKER_LAYERS) for layer in layers)
    )


def _suits(config: _Config, want: Platform) -> bool:
    have = _known(Platform(config.os, config.architecture))
    return (have.os or want.os, have.architecture or want.architecture) == (want.os, want.architecture)


def _known(read: Platform) -> Platform:
    """A platform as some builder wrote it, in the words of `platform_of`; a variant that it does not name is not guessed."""
    architecture, implied = _ALIASES.get(read.architecture.lower(), (read.architecture.lower(), ""))
    variant = read.variant.lower() or implied
    if variant:
        variant = _VARIANTS.get((architecture, variant), variant)
    return Platform(read.os.lower(), architecture, variant)


def _rank(have: Platform | None, want: Platform) -> int | None:
    """0 for the best; None when an image for `have` does not run on `want`."""
    if have is None:
        return 90
    have = _known(have)
    if have.os != want.os or have.architecture != want.architecture:
        return None
    if have.variant == want.variant:
        return 0
    if want.architecture == "arm64":
        return 1 if not have.variant else None
    if want.architecture == "arm":
        mine, theirs = want.variant.removeprefix("v"), (have.variant or "v7").removeprefix("v")
        return int(mine) - int(theirs) if mine.isdigit() and theirs.isdigit() and theirs <= mine else None
    # amd64/v2 and the like need a processor that we have not looked at
    return 1 if not have.variant else None


def _checked(image: str, descriptor: Descriptor) -> Descriptor:
    _digest(image, descriptor.digest)
    if not 0 <= descriptor.size <= MAX_BLOB_BYTES:
        _refuse(image, f"{descriptor.digest} has the size {descriptor.size}")
    vouched = descriptor.vouched if isinstance(descriptor, _Entry) else None
    return Descriptor(descriptor.digest, descriptor.size, descriptor.media_type, descriptor.platform, vouched)


def _digest(image: str, text: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidArgumentError as exc:
        raise InvalidArgumentError(f"image {image}: {exc.message}") from exc


def _refuse(image: str, why: str) -> NoReturn:
    raise InvalidArgumentError(f"image {image}: {why}")
