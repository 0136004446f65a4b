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


class _Config(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""


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
    platform = {"os": found.os, "architecture": found.architecture, "variant": found.variant}
    return [
        {
            "mediaType": documents.kind_of(body),
            "digest": tree.top,
            "size": len(body),
            "platform": {name: value for name, value in platform.items() if value},
        }
    ]


def index_of(image: str, entries: Iterable[Entry]) -> tuple[str, bytes]:
    """The digest and the bytes of an index; the same entries always give the same.

    Raises:
        InvalidArgumentError: two of them are for one platform.
    """
    kept = list({entry["digest"]: entry for entry in entries}.values())
    named: set[str] = set()
    for entry in kept:
        platform = msgspec.convert(entry.get("platform") or {}, Platform)
        if platform.os != UNKNOWN and str(platform) in named:
            raise InvalidArgumentError(f"image {image}: two of its images are for {platform}")
        named.add(str(platform))
    kind = documents.INDEX_TYPES[0]
    body = msgspec.json.encode({"schemaVersion": 2, "mediaType": kind, "manifests": kept})
    return f"sha256:{hashlib.sha256(body).hexdigest()}", body
