"""What imaged remembers of an image."""

import msgspec

from common.records import Record


class LayerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A layer's blob."""

    digest: str
    size_bytes: int
    media_type: str


class ImageRecord(Record, frozen=True, kw_only=True):
    """An image; its id is the digest of its config. Or an artifact."""

    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()
    manifest_digest: str
    config_size_bytes: int
    documents: tuple[str, ...] = ()
    """Digests of the manifest and of the indexes that led to it, the highest first; then those of other platforms."""
    diff_ids: tuple[str, ...] = ()
    layers: tuple[LayerRecord, ...] = ()
    artifact_type: str = ""
    """Of an artifact, which can be mounted and not run: its id is its manifest's digest, its layers are all its blobs,
    and its only diff ID is that of its files."""
    others: tuple[LayerRecord, ...] = ()
    """Blobs of other platforms, when all that an index names was asked for."""
    platform: str = ""
    """What it is for, when that is not this node's platform."""
    pulled_at_ns: int = 0
    used_at_ns: int = 0
    """When a container was last made from it, was last seen to stand on it, or it was last asked for by a pull."""
    leases: dict[str, int] = msgspec.field(default_factory=dict)
    """Until when somebody outside holds the image, by the lease's name; those that have ended may still be here."""

    @property
    def last_used_ns(self) -> int:
        return max(self.pulled_at_ns, self.used_at_ns)

    def lease_at(self, at_ns: int) -> str:
        """The lease that holds the image longest at a time; empty for none."""
        held = [(until_ns, name) for name, until_ns in self.leases.items() if until_ns > at_ns]
        return max(held)[1] if held else ""

    @property
    def size_bytes(self) -> int:
        """Compressed layers, each once, and the config; with what is here of other platforms."""
        return self.config_size_bytes + sum(
            {blob.digest: blob.size_bytes for blob in (*self.layers, *self.others)}.values()
        )

    @property
    def blobs(self) -> set[str]:
        """Digests of all blobs of the image."""
        return {self.id, *self.documents, *(blob.digest for blob in (*self.layers, *self.others))}

    @property
    def names(self) -> list[str]:
        return [*self.repo_tags, *self.repo_digests]
