"""Images to a registry: from here, or from another registry. Digests stay what they are.

documents, top first ─→ blobs: there? mount? send ─→ documents, the top last, under its tag
"""

import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

import anyio
from anyio.abc import TaskGroup

from common.errors import InternalError, SlipwayError
from common.events.schema import ImagePushed
from common.observe.log import get_logger
from common.observe.trace import span
from common.operations import Operations, cancellable
from imaged import manifest as documents
from imaged.catalog import Catalog, tag_of
from imaged.hosts import same_registry
from imaged.indexing import config_of, entries_of, index_of
from imaged.leases import Leases, Needs
from imaged.manifest import Descriptor
from imaged.ports import Content, Credentials, Registry, Repository
from imaged.pull import NO_CHOICE, Choice, keep
from imaged.reference import Reference
from imaged.tree import Tree, read_tree
from imaged.whole import Whole

PROGRESS_S = 0.2
_AT_ONCE = 16
"""Blobs, which wait for the connections of a registry: each that waits takes 9 KB."""
_log = get_logger("imaged")


class BlobState(StrEnum):
    """How far a blob is."""

    WAITING = "waiting"
    FETCHING = "fetching"
    SENDING = "sending"
    SENT = "sent"
    MOUNTED = "mounted"
    THERE = "there"


@dataclass(slots=True)
class BlobStatus:
    """A blob's progress, written by a thread and read by callers."""

    blob: Descriptor
    state: BlobState = BlobState.WAITING
    sent_bytes: int = 0

    def told(self, count: int) -> None:
        self.sent_bytes = count


@dataclass(slots=True, eq=False)
class Transfer:
    """A running push or copy."""

    target: Reference
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    done: anyio.Event = field(default_factory=anyio.Event)
    blobs: list[BlobStatus] = field(default_factory=list)
    digest: str = ""
    """What the name means at the registry, once done."""
    left_out: list[str] = field(default_factory=list)
    """Platforms of the image that are not here, and so are not at the registry."""
    error: SlipwayError | None = None

    def bytes(self) -> tuple[int, int]:
        """How many are there, and of how many."""
        total = sum(status.blob.size for status in self.blobs)
        waiting = (BlobState.WAITING, BlobState.FETCHING, BlobState.SENDING)
        there = (s.sent_bytes if s.state in waiting else s.blob.size for s in self.blobs)
        return sum(there), total


class Transfers:
    """Pushes and copies.

    Args:
        catalog: finds images.
        leases: keep what is being sent.
        content: blobs.
        whole: brings what is missing of an image.
        registry: where to send it.
        emit: tells an event.
        operations: list transfers, and may cancel them.
        task_group: transfers live here; they end with their caller.
    """

    def __init__(
        self,
        catalog: Catalog,
        leases: Leases,
        content: Content,
        whole: Whole,
        registry: Registry,
        *,
        emit: Callable[[ImagePushed], Awaitable[None]],
        operations: Operations,
        task_group: TaskGroup,
    ) -> None:
        self._catalog, self._leases, self._content = catalog, leases, content
        self._whole, self._registry, self._emit = whole, registry, emit
        self._operations, self._group = operations, task_group

    async def push(
        self, text: str, target: str, credentials: Credentials, choice: Choice = NO_CHOICE
    ) -> AsyncIterator[Transfer]:
        """Push an image and follow it; ends with the caller.

        Args:
            text: the image.
            target: the name that it shall have at the registry; empty for the one that `text` is.
            credentials: for that registry.
            choice: one platform alone, or all or nothing; else what is here of those that the image was pulled by.

        Raises:
            NotFoundError: the image is not here, or not for the platform that was chosen.
            InvalidArgumentError: the target is no tag.
            FailedPreconditionError: a layer is here only unpacked, and cannot be fetched; or all platforms were asked for
                and are not here.
            PermissionDeniedError, ResourceExhaustedError, UnknownError: as `imaged.ports.Repository` says.
        """
        record = self._catalog.find(text)
        transfer = Transfer(Reference.parse(tag_of(target or text)))

        async def work(needs: Needs) -> None:
            needs.add(record)
            await self._whole.complete(record, needs, credentials)
            top = await self._whole.top(record, choice)
            needs.digests |= top.below  # which may be another image's
            tree = await read_tree(text, top.digest, self._content.read)
            mounts = _mounts(transfer.target, [Reference.parse(name) for name in record.repo_digests])
            await self._send(transfer, tree, mounts, credentials, self._here)
            repo_digest = f"{transfer.target.repository}@{tree.top}"
            event = self._pushed(transfer, start)
            if not choice.platform:
                transfer.left_out = await self._whole.left_out(record, top)
            if record.manifest_digest in top.below and self._catalog.select(record.id):
                await self._catalog.keep(record, event, repo_digest=repo_digest)
            else:
                await self._emit(event)

        start = time.monotonic()
        async for moment in self._follow(transfer, work):
            yield moment

    async def copy(
        self, source: str, target: str, credentials: Credentials, target_credentials: Credentials
    ) -> AsyncIterator[Transfer]:
        """Copy an image with all its platforms from one registry to another; nothing of it stays here.

        Raises:
            SlipwayError: as `push`, and what the source's registry says.
        """
        origin, transfer = Reference.parse(source), Transfer(Reference.parse(tag_of(target)))

        async def work(needs: Needs) -> None:
            async with self._registry.repository(origin, credentials) as repository:
                tree = await _tree_at(repository, origin)
                mounts = _mounts(transfer.target, [origin])
                bring = partial(self._bring, needs, repository)
                await self._send(transfer, tree, mounts, target_credentials, bring)
            await self._emit(self._pushed(transfer, start))

        start = time.monotonic()
        async for moment in self._follow(transfer, work):
            yield moment

    async def index(
        self, target: str, sources: Sequence[tuple[str, Credentials]], credentials: Credentials
    ) -> AsyncIterator[Transfer]:
        """Make one image of several of registries, by an index; nothing of them stays here.

        Args:
            target: what it is called.
            sources: images with one platform or several, each with the credentials for its registry.
            credentials: for the target's registry.

        Raises:
            InvalidArgumentError: two of them are for one platform, or one is an artifact.
            SlipwayError: as `copy`.
        """
        transfer = Transfer(Reference.parse(tag_of(target)))
        origins = [Reference.parse(text) for text, _ in sources]

        async def work(needs: Needs) -> None:
            places: dict[str, Repository] = {}
            whole, named = Tree({}, {}), []
            async with AsyncExitStack() as stack:
                for origin, (_, theirs) in zip(origins, sources, strict=True):
                    repository = await stack.enter_async_context(self._registry.repository(origin, theirs))
                    tree = await _tree_at(repository, origin)
                    config, body = config_of(str(origin), tree), b""
                    if config:
                        path = await self._bring(needs, repository, tree.blobs[config])
                        body = await anyio.Path(path).read_bytes()
                    named.append(entries_of(str(origin), tree, body))
                    whole.documents.update(tree.documents if config else tree.without([tree.top]).documents)
                    whole.blobs.update(tree.blobs)
                    places.update(dict.fromkeys(tree.blobs, repository))
                digest, body = index_of(target, named)
                whole.documents[digest] = body

                async def bring(blob: Descriptor) -> str:
                    return await self._bring(needs, places[blob.digest], blob)

                await self._send(transfer, whole, _mounts(transfer.target, origins), credentials, bring)
            await self._emit(self._pushed(transfer, start))

        start = time.monotonic()
        async for moment in self._follow(transfer, work):
            yield moment

    async def _bring(self, needs: Needs, repository: Repository, blob: Descriptor) -> str:
        """Where a blob is, once it is here."""
        needs.digests.add(blob.digest)
        await self._whole.until_whole(blob.digest)
        await keep(repository, self._content, blob)
        return self._content.path(blob.digest)

    async def _follow(
        self, transfer: Transfer, work: Callable[[Needs], Awaitable[None]]
    ) -> AsyncIterator[Transfer]:
        self._group.start_soon(self._run, transfer, work, name=f"push {transfer.target}")
        try:
            while not transfer.done.is_set():
                with anyio.move_on_after(PROGRESS_S):
                    await transfer.done.wait()
                if not transfer.done.is_set():
                    yield transfer
        finally:
            transfer.scope.cancel()
        if transfer.error is not None:
            raise transfer.error.bare()
        yield transfer

    async def _run(self, transfer: Transfer, work: Callable[[Needs], Awaitable[None]]) -> None:
        needs = Needs()
        try:
            name = str(transfer.target)
            with (
                transfer.scope,
                self._operations.counted("push", name, transfer.bytes),
                span("imaged.image.push", {"slipway.reference": name}),
                self._leases.hold(needs),
                cancellable(),
            ):
                await work(needs)
        except SlipwayError as exc:
            if isinstance(exc, InternalError):
                _log.exception("push.bug", reference=str(transfer.target))
            transfer.error = exc.bare()
        except Exception as exc:  # noqa: BLE001 - the border: the caller hears of a bug, others go on
            _log.exception("push.bug", reference=str(transfer.target))
            transfer.error = InternalError(f"push of {transfer.target}: internal error: {type(exc).__name__}")
        finally:
            try:
                await self._leases.collect(needs.digests, set())
            finally:
                transfer.done.set()
        gc.collect()  # errors and frames that hold each other, and the documents

    async def _send(
        self,
        transfer: Transfer,
        tree: Tree,
        mounts: list[str],
        credentials: Credentials,
        path_of: Callable[[Descriptor], Awaitable[str]],
    ) -> None:
        transfer.blobs = [BlobStatus(blob) for blob in tree.blobs.values()]
        failures: list[SlipwayError] = []
        async with self._registry.repository(transfer.target, credentials, push=True) as repository:
            async with anyio.create_task_group() as group:

                async def some() -> None:
                    try:
                        for status in waiting:
                            await _send_blob(repository, status, mounts, path_of)
                    except SlipwayError as exc:
                        failures.append(exc)
                        group.cancel_scope.cancel()

                waiting = iter(transfer.blobs)
                for _ in range(_AT_ONCE):
                    group.start_soon(some)
            if failures:
                raise failures[0]
            for digest, body in tree.documents.items():
                name = transfer.target.tag if digest == tree.top else digest
                await repository.push_document(name, documents.kind_of(body), body)
        transfer.digest = tree.top
        _log.info("image.pushed", reference=str(transfer.target), digest=tree.top)

    async def _here(self, blob: Descriptor) -> str:
        return self._content.path(blob.digest)

    def _pushed(self, transfer: Transfer, start: float) -> ImagePushed:
        return ImagePushed(
            id=transfer.digest,
            reference=str(transfer.target),
            sent_bytes=sum(s.blob.size for s in transfer.blobs if s.state is BlobState.SENT),
            duration_ms=round((time.monotonic() - start) * 1e3),
        )


async def _send_blob(
    repository: Repository,
    status: BlobStatus,
    mounts: list[str],
    path_of: Callable[[Descriptor], Awaitable[str]],
) -> None:
    if await repository.has(status.blob):
        status.state = BlobState.THERE
    elif mounts and await repository.mount(status.blob, mounts):
        status.state = BlobState.MOUNTED
    else:
        status.state = BlobState.FETCHING
        path = await path_of(status.blob)
        status.state = BlobState.SENDING
        await repository.push_blob(status.blob, path, status.told)
        status.state = BlobState.SENT


async def _tree_at(repository: Repository, origin: Reference) -> Tree:
    """All documents of an image at its registry."""
    first = await repository.document(origin.object)
    known = {str(first.digest): first.body}

    async def read(digest: str) -> bytes:
        return known.get(digest) or (await repository.document(digest)).body

    return await read_tree(str(origin), str(first.digest), read)


def _mounts(target: Reference, known: list[Reference]) -> list[str]:
    """Repositories of the target's registry that have the image already."""
    paths = [ref.path for ref in known if same_registry(ref.domain, target.domain)]
    return [path for path in dict.fromkeys(paths) if path != target.path]
