"""What the pulls and the image service need from the world."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from common.digest import Digest
from imaged.manifest import Descriptor
from imaged.reference import Reference
from imaged.turns import Queue


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """Credentials of one pull; never printed."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""
    server: str = ""
    """The host that they are for; empty for the image's own registry."""

    def __bool__(self) -> bool:
        return bool(self.username or self.password or self.identity_token or self.registry_token)


class Partial(Protocol):
    """An unfinished blob. All methods block. `write` may be called by several threads, the others by one alone."""

    @property
    def fetched_bytes(self) -> int:
        """How many are here."""

    @property
    def scattered(self) -> bool:
        """Whether bytes may come in any order; else each write begins where the one before ended."""

    def missing(self) -> Sequence[tuple[int, int]]:
        """What is not here, in order: first byte, and the one after the last."""

    def write(self, chunk: bytes, at: int) -> None:
        """Write at a place.

        Raises:
            ResourceExhaustedError: the disk is full.
            DataLossError: this goes beyond the blob's size.
        """

    def restart(self) -> None:
        """Forget what is here."""

    def verify(self) -> None:
        """Compare size and digest.

        Raises:
            DataLossError: they differ; what was here is forgotten.
        """


class Content(Protocol):
    """Blobs by digest. A blob that is here is whole, verified and durable."""

    def has(self, digest: str) -> bool: ...

    def path(self, digest: str) -> str: ...

    def size(self, digest: str) -> int | None: ...

    def all(self) -> list[str]:
        """The digests of all blobs."""

    def ingest(self, descriptor: Descriptor) -> AbstractAsyncContextManager["Ingest"]:
        """Start or resume an unfinished blob; one at a time for each digest, others wait."""

    async def read(self, digest: str) -> bytes: ...

    async def put(self, digest: Digest, body: bytes) -> None:
        """Store a small blob; idempotent."""

    async def adopt(self, descriptor: Descriptor, path: str) -> None:
        """Take a whole and verified file on the same file system as a blob; idempotent."""

    async def delete(self, digests: Iterable[str]) -> None:
        """Remove blobs but those that somebody is at, which a sweep removes; idempotent."""

    async def is_scarce(self) -> bool:
        """Whether there is so little room left that what may be of use later is in the way."""

    async def sweep(
        self, needed: Callable[[], set[str]], older_than_s: float, *, dry_run: bool = False
    ) -> dict[str, int]:
        """Remove blobs, finished or not, that are not needed, that nobody is at and that are older, unless it is a dry run.

        Returns:
            What went, or would: the bytes by digest.
        """


class Ingest(Protocol):
    """An unfinished blob as the pull sees it; what is not committed stays for the next try."""

    @property
    def partial(self) -> Partial: ...

    @property
    def committed(self) -> bool:
        """Already here, as when another pull was faster."""

    @property
    def path(self) -> str:
        """Where the bytes are, for those who read them before the commit."""

    async def sync(self) -> None:
        """Make the bytes durable."""

    async def commit(self) -> None:
        """Give the blob its name; idempotent. It must be verified and synced."""

    async def discard(self) -> None:
        """Forget the bytes; those of a blob that is here only when they are not what its digest says."""


@dataclass(frozen=True, slots=True)
class SpooledFile:
    """A file of an archive, on disk and hashed."""

    path: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Spooled:
    """A whole archive: files by name, and links by name with the name that they mean."""

    files: dict[str, SpooledFile]
    links: dict[str, str]

    def find(self, name: str) -> SpooledFile | None:
        """A file by its name or that of a link to it."""
        return self.files.get(name) or self.files.get(self.links.get(name, ""))


class Archives(Protocol):
    """Archives that come in."""

    def spool(self, chunks: AsyncIterator[bytes]) -> AbstractAsyncContextManager[Spooled]:
        """Read an archive to its end; what it brought is gone after the block, but for what was adopted.

        Raises:
            DataLossError: it is damaged, cut off, or a blob in it has another digest than its name.
            InvalidArgumentError: something in it is never to be there.
            ResourceExhaustedError: the disk is full.
        """


class Workplace(Protocol):
    """Directories to work in."""

    def directory(self) -> AbstractAsyncContextManager[str]:
        """A new one on the file system of the content store; gone after the block.

        An OSError of the block is raised as `common.errors.of_system` says: ResourceExhaustedError when the disk is full.
        """


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or an index."""

    digest: Digest
    media_type: str
    body: bytes


class Repository(Protocol):
    """One repository at its registry and mirrors, for one pull.

    Every method raises, with a sentence that names image and host: NotFoundError, PermissionDeniedError,
    ResourceExhaustedError (rate limit, full disk), DataLossError, or UnknownError with the prefix
    `RegistryUnavailable:` that a kubelet reads.
    """

    async def resolve(self) -> Digest | None:
        """The digest that the reference stands for now; None when the registry will not tell by HEAD."""

    async def document(self, name: str) -> Document:
        """A manifest by tag or digest, verified."""

    async def referrers(self, digest: Digest, kinds: Sequence[str]) -> list[Descriptor]:
        """The documents of these artifact types that refer to a document; none where the registry knows none."""

    async def has(self, blob: Descriptor) -> bool:
        """Whether the repository has a blob."""

    async def mount(self, blob: Descriptor, sources: Sequence[str]) -> bool:
        """Whether a blob could be taken over from one of these repositories of the registry, by path."""

    async def push_blob(self, blob: Descriptor, path: str, told: Callable[[int], None]) -> None:
        """Send a blob from a file; `told` hears, in another thread, how many bytes have gone."""

    async def push_document(self, name: str, media_type: str, body: bytes) -> None:
        """Store a manifest or an index under a tag or its digest."""

    async def fetch(self, descriptor: Descriptor, partial: Partial, order: int = 0) -> None:
        """Bring what is missing of a blob and verify it; cut connections are resumed.

        Of the blobs of one pull that wait, those of a lower order come first.
        """

    async def read(self, blob: Descriptor, extent: tuple[int, int], partial: Partial) -> None:
        """Bring the bytes from the first to before the second into their place; FailedPreconditionError without ranges."""


class Registry(Protocol):
    """Registries."""

    def queue(self, priority: int) -> Queue:
        """Turns for the blobs of one pull."""

    def repository(
        self,
        reference: Reference,
        credentials: Credentials,
        *,
        push: bool = False,
        queue: Queue | None = None,
    ) -> AbstractAsyncContextManager[Repository]:
        """One repository; with `push`, credentials are used to ask for the right to write.

        Blobs come by the turns of `queue`, or else of a new one of priority 0.
        """

    async def check_login(self, domain: str, credentials: Credentials) -> bool:
        """Whether a registry asked for the login, which it took.

        Raises:
            PermissionDeniedError: it does not take it.
            UnknownError: with the prefix `RegistryUnavailable:`.
        """


class Held(Protocol):
    """A layer that snapshotd holds."""

    @property
    def diff_id(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...


class Stack(Protocol):
    """A snapshot, as the layers that it stands on."""

    @property
    def key(self) -> str: ...

    @property
    def diff_ids(self) -> Sequence[str]: ...


class Served(Protocol):
    """A layer that is served while its bytes come."""

    @property
    def prefetch_bytes(self) -> int:
        """So many from the blob's beginning are needed first."""


class WrittenDiff(Protocol):
    """What a snapshot changed, as an uncompressed layer."""

    @property
    def diff_id(self) -> str: ...

    @property
    def entries(self) -> int:
        """0 when nothing changed."""


class Layers(Protocol):
    """Unpacked layers: snapshotd."""

    async def write_diff(
        self, key: str, path: str, ignore: Sequence[str] = (), *, max_mtime_s: int = 0
    ) -> WrittenDiff:
        """Write what a snapshot changed into a new file, but for what is empty of `ignore`.

        With `max_mtime_s`, nothing in it is younger.
        """

    async def list(self) -> Iterable[Stack]:
        """All snapshots."""

    async def apply_layer(
        self, *, diff_id: str, digest: str, blob_path: str, media_type: str, size_bytes: int
    ) -> object:
        """Unpack a blob; DataLossError when its bytes do not have that diff ID."""

    async def serve_layer(
        self,
        *,
        diff_id: str,
        digest: str,
        blob_path: str,
        media_type: str,
        size_bytes: int,
        toc_offset: int,
        toc_bytes: int,
        toc_digest: str,
    ) -> Served:
        """Serve a blob whose bytes come; InvalidArgumentError or FailedPreconditionError when that cannot be."""

    async def list_layers(self, diff_ids: Sequence[str] = ()) -> Iterable[Held]: ...

    async def remove_layers(self, diff_ids: Sequence[str]) -> object:
        """Remove layers; idempotent."""
