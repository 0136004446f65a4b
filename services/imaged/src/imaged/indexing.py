"""An index made of images that are there already: which platforms it names, and its bytes. Pure."""

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from common.errors import InvalidArgumentError
from imaged import manifest as documents
from imaged.manifest import Index, Platform
from imaged.tree import Tree

Entry = dict[str, Any]
"""A descriptor in an index, as it is in its JSON: annotations stay."""
UNKNOWN = "unknown"
"""The platform of what BuildKit says of a build itself."""


class _Manifests(msgspec.Struct):
    manifests: list[Entry]


class _Config(msgspec.Struct, omit_defaults=True):
    """Of a config, what is the platform of an index's entry."""

    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: list[str] | None = msgspec.field(default=None, name="os.features")


def config_of(image: str, tree: Tree) -> str:
    """The digest of the config that tells what an image is for; empty of an index, which says it itself.

    Raises:
        InvalidArgumentError: it is an artifact, or malformed.
    """
    read = documents.parse(image, tree.documents[tree.top], "")
    if isinstance(read, Index):
        return ""
    if read.artifact_type:
        raise InvalidArgumentError(f"image {image}: it is an artifact, which is for no platform")
    return read.config.digest


def entries_of(image: str, tree: Tree, config: bytes) -> list[Entry]:
    """What an index says of an image: the entries of its own index, or one for its manifest.

    Args:
        image: for messages.
        tree: of the image.
        config: of the manifest, if it is one.

    Raises:
        InvalidArgumentError: it is malformed.
    """
    body = tree.documents[tree.top]
    try:
        if not config:
            return msgspec.json.decode(body, type=_Manifests).manifests
        found = msgspec.json.decode(config, type=_Config)
    except documents.MALFORMED as exc:
        raise InvalidArgumentError(f"image {image}: {exc}") from exc
    entry = {"mediaType": documents.kind_of(body), "digest": tree.top, "size": len(body)}
    return [entry | {"platform": msgspec.to_builtins(found)}]


def index_of(image: str, sources: Iterable[Iterable[Entry]]) -> tuple[str, bytes]:
    """The digest and the bytes of an index; the same entries always give the same.

    Args:
        image: for messages.
        sources: the entries that each image has brought, which stand beside each other as they are.

    Raises:
        InvalidArgumentError: two images are for one platform.
    """
    kept: dict[tuple[str, bytes], Entry] = {}
    named: set[bytes] = set()
    for entries in sources:
        new = {(entry["digest"], _platform(entry)): entry for entry in entries}
        mine = {key[1]: entry for key, entry in new.items() if key not in kept and not _is_of_a_build(entry)}
        if twice := named & mine.keys():
            raise InvalidArgumentError(f"image {image}: two of its images are for {_named(mine[min(twice)])}")
        named |= mine.keys()
        kept |= new
    kind = documents.INDEX_TYPES[0]
    body = msgspec.json.encode({"schemaVersion": 2, "mediaType": kind, "manifests": list(kept.values())})
    return f"sha256:{hashlib.sha256(body).hexdigest()}", body


def _platform(entry: Entry) -> bytes:
    """All that an entry says of its platform, in one form; of Windows, also the version and the features count."""
    said = {name: value for name, value in (entry.get("platform") or {}).items() if value}
    return msgspec.json.encode(said, order="sorted")


def _is_of_a_build(entry: Entry) -> bool:
    return (entry.get("platform") or {}).get("os") == UNKNOWN


def _named(entry: Entry) -> str:
    said = entry.get("platform") or {}
    name = str(msgspec.convert(said, Platform)) or "no platform"
    return " ".join(filter(None, (name, str(said.get("os.version", "")))))
