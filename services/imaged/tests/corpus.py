"""Hostile and odd manifests, each with a word of the reason for which it must be refused.

`python -m services.imaged.tests.corpus DIRECTORY` writes them, for other runtimes to try; layers are in that of snapshotd.
"""

import json
import sys
from pathlib import Path

OCI = "application/vnd.oci.image."
D = "sha256:" + "ab" * 32


def doc(**change: object) -> bytes:
    """A manifest with what is changed of it; None takes a key away."""
    made = {
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "config": {"mediaType": OCI + "config.v1+json", "digest": D, "size": 2},
        "layers": layer(OCI + "layer.v1.tar+gzip"),
    } | change
    return json.dumps({k: v for k, v in made.items() if v is not None}).encode()


def layer(kind: str, size: int = 3) -> list[dict[str, object]]:
    return [{"mediaType": kind, "digest": D, "size": size}]


MANIFESTS: dict[str, tuple[bytes, str]] = {
    "cut": (b"{", "malformed"),
    "a list": (b"[]", "malformed"),
    "nested without end": (b"[" * 100_000, "malformed"),
    "schema 1": (doc(schemaVersion=1, fsLayers=[]), "schema 1"),
    "schema 1, signed": (
        doc(mediaType="application/vnd.docker.distribution.manifest.v1+prettyjws"),
        "schema 1",
    ),
    "a manifest and an index": (doc(manifests=[]), "both manifests and layers"),
    "an encrypted layer": (doc(layers=layer(OCI + "layer.v1.tar+gzip+encrypted")), "encrypted"),
    "a layer of an unknown type": (doc(layers=layer("application/vnd.example.blob")), "unknown media type"),
    "a config of 9 MiB": (
        doc(config={"mediaType": OCI + "config.v1+json", "digest": D, "size": 9 << 20}),
        "larger",
    ),
    "a config of 100 MB": (
        doc(config={"mediaType": OCI + "config.v1+json", "digest": D, "size": 100_000_000}),
        "larger",
    ),
    "a short digest": (
        doc(config={"mediaType": OCI + "config.v1+json", "digest": "sha256:1", "size": 2}),
        "sha256:1",
    ),
    "a size below zero": (doc(layers=layer(OCI + "layer.v1.tar", -1)), "size -1"),
    "a size of 64 TiB and a byte": (doc(layers=layer(OCI + "layer.v1.tar", (1 << 46) + 1)), "has the size"),
    "a size of 64 bits": (doc(layers=layer(OCI + "layer.v1.tar", 1 << 64)), "has the size"),
    "a size of 100 bits": (doc(layers=layer(OCI + "layer.v1.tar", 10**30)), "has the size"),
    "a page of HTML by its type": (doc(mediaType="text/html"), "text/html"),
    "no config": (doc(config=None), "no config"),
    "an index of nothing": (
        doc(config=None, layers=None, mediaType=OCI + "index.v1+json"),
        "no manifests",
    ),
    "an index that says it is a manifest": (doc(config=None, layers=None, manifests=[]), "is an index"),
}


def main() -> None:
    """Write them."""
    for name, (body, _) in MANIFESTS.items():
        Path(sys.argv[1], f"{name}.json").write_bytes(body)


if __name__ == "__main__":
    main()
