"""One blob whose bytes come: those that somebody waits for first, and the others while nobody does.

opened ─→ served ─→ filled ─→ verified ─→ unpacked ─→ an ordinary blob
            │ a registry that is away is asked again and again
            └─→ failed: its digest is another. What is read of it goes on being verified chunk by chunk.
"""

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import anyio
import anyio.to_thread
import msgspec

from common.errors import (
    DataLossError,
    FailedPreconditionError,
    PermissionDeniedError,
    ResourceExhaustedError,
    SlipwayError,
    UnavailableError,
    UnknownError,
)
from common.observe.log import get_logger
from imaged.lazy import extents, footer
from imaged.lazy.extents import Extent
from imaged.manifest import Descriptor, Toc
from imaged.ports import Content, Credentials, Ingest, Partial, Registry, Repository
from imaged.reference import Reference

PRIORITY = -1000
"""Of the fill, among pulls."""
QUIET_S, PATIENCE_S = 1.0, 5.0
"""A fill waits until nobody has waited for bytes for so long, but not longer than the second."""
FETCH_AFTER_S = 1.0
"""What is not served so long after its table of contents came is fetched meanwhile: perhaps it never is."""
RETRY_S, LONGEST_RETRY_S = 0.5, 60.0
MAX_RANGE_BYTES = 40 << 20
"""The most that may be asked for at once: a chunk with what must be read before it."""
PASSING = (UnknownError, UnavailableError, ResourceExhaustedError)
"""Errors after which another try may go well."""
_log = get_logger("lazy")


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept on disk of a blob that comes, so that it goes on after a restart."""

    reference: str
    digest: str
    size: int
    media_type: str
    diff_id: str
    failed: str = ""
    """Why it will never be whole."""


class Coming:
    """A blob that comes.

    Args:
        ticket: which.
        credentials: for its registry.
        content: where it goes.
        registry: where it comes from.
        fill_delay_s: how long a fill leaves the link to who starts.
        done: told when it is whole and verified, with where it is; before it gets its name.
    """

    def __init__(
        self,
        ticket: Ticket,
        credentials: Credentials,
        content: Content,
        registry: Registry,
        done: Callable[["Coming", Ingest], Awaitable[None]],
        fill_delay_s: float,
    ) -> None:
        self.ticket = ticket
        self.blob = Descriptor(ticket.digest, ticket.size, ticket.media_type)
        self._credentials, self._content, self._registry, self._done = credentials, content, registry, done
        self._opened = anyio.Event()
        self._has_table = anyio.Event()
        self._fill = anyio.Event()
        self._ended = anyio.Event()
        self._turned = anyio.Event()
        self._hurried = anyio.Event()
        self._trouble = ""
        self._scope = anyio.CancelScope()
        self._filling: anyio.CancelScope | None = None
        self._discard = False
        self._ingest: Ingest | None = None
        self._repository: Repository | None = None
        self._repositories = AsyncExitStack()
        self._reopening = anyio.Lock()
        self._spare: Credentials | None = None
        self._bringing: dict[Extent, anyio.Event] = {}
        self._waiting = 0
        self._waited_at = 0.0
        self._first: Extent = (0, ticket.size)
        self._delay_s, self._not_before = fill_delay_s, 0.0

    async def run(self) -> None:
        """Have the blob open, and fill it once told to, or when it is not served soon. A long task."""
        try:
            with self._scope:
                async with self._content.ingest(self.blob) as ingest, AsyncExitStack() as opened:
                    opened.push_async_callback(self._close)
                    await self._reopen(None)
                    self._ingest = ingest
                    self._opened.set()
                    try:
                        await self._has_table.wait()
                        with anyio.move_on_after(FETCH_AFTER_S):
                            await self._fill.wait()
                        await self._complete(ingest)
                    finally:
                        if self._discard and not ingest.committed:
                            with anyio.CancelScope(shield=True):
                                await ingest.discard()
        except SlipwayError as exc:
            _log.error("lazy.ended", digest=self.ticket.digest, error=exc.message)
        finally:
            self._ingest = self._repository = None
            self._opened.set()
            self._ended.set()
            self._turn("")

    async def open(self, toc: Toc) -> tuple[str, Extent]:
        """Bring the table of contents; the blob's file, and where in it the table is.

        Raises:
            FailedPreconditionError: this blob cannot be used before it is here.
            SlipwayError: its registry does not give it.
        """
        ingest = await self._open()
        if not ingest.partial.scattered:
            raise FailedPreconditionError("the content store's file system shows no holes")
        start, end = (toc.offset, toc.offset + toc.size) if toc.offset else await self._at_the_end(ingest)
        if end - start > MAX_RANGE_BYTES:
            raise FailedPreconditionError(f"its table of contents has {end - start} bytes")
        await self.bring(start, end)
        self._has_table.set()
        return ingest.path, (start, end)

    async def _at_the_end(self, ingest: Ingest) -> Extent:
        """Where the table of an eStargz blob is."""
        size = self.ticket.size
        if size <= footer.BYTES:
            raise FailedPreconditionError("it is too small")
        await self.bring(size - footer.BYTES, size)
        tail = await anyio.to_thread.run_sync(_read, ingest.path, size - footer.BYTES)
        offset = footer.toc_offset(tail, size)
        if offset is None:
            raise FailedPreconditionError("it does not end as an eStargz blob")
        return offset, size

    def fill(self, first_bytes: int = 0) -> None:
        """Bring everything: these first bytes at once, the others after the delay."""
        self._not_before = time.monotonic() + self._delay_s
        self._first = (0, min(first_bytes, self.ticket.size))
        self._has_table.set()
        self._fill.set()

    def offer(self, credentials: Credentials) -> None:
        """Have credentials that somebody has used of late for when those that it has are denied; what waits is tried now."""
        if credentials and credentials != self._credentials:
            self._spare = credentials
        if self._trouble:
            self._hurried.set()

    async def until_whole(self) -> None:
        """Wait until all of it is here, which then comes without pauses, and what failed is tried again now; it may end without that when nobody needs it.

        Raises:
            FailedPreconditionError: it will never be whole, or cannot go on now.
        """
        self._hurried.set()
        while not self._ended.is_set():
            if self.ticket.failed:
                raise FailedPreconditionError(
                    f"layer {self.ticket.digest} will never be whole: {self.ticket.failed}"
                )
            await self._turned.wait()
            if self._trouble:
                raise FailedPreconditionError(f"layer {self.ticket.digest} is not whole yet: {self._trouble}")

    async def end(self, *, discard: bool) -> None:
        """Stop; with `discard`, forget what came."""
        self._discard = discard
        self._scope.cancel()
        await self._ended.wait()

    async def bring(self, start: int, end: int, *, again: bool = False) -> None:
        """Have a range here; `again` although it is.

        Raises:
            SlipwayError: the registry does not give it.
        """
        ingest = await self._open()
        if ingest.committed:
            return
        self._waiting += 1
        if self._filling:
            self._filling.cancel()  # what it has brought of its piece stays
        try:
            if again:
                await self._fetch((start, end))
            await self._bring(ingest.partial, *extents.widened(start, end, self.ticket.size))
        finally:
            self._waiting -= 1
            self._waited_at = time.monotonic()

    async def _open(self) -> Ingest:
        await self._opened.wait()
        if self._ingest is None:
            raise UnavailableError(f"blob {self.ticket.digest} does not come any more")
        return self._ingest

    async def _bring(self, partial: Partial, start: int, end: int) -> None:
        while missing := extents.within(list(partial.missing()), start, end):
            mine = extents.pieces(extents.without(missing, list(self._bringing)))
            if mine:
                await self._fetch(mine[0])
            else:
                # what is missing is on its way
                await next(
                    event for extent, event in self._bringing.items() if extents.within(missing, *extent)
                ).wait()

    async def _fetch(self, extent: Extent) -> None:
        if self._repository is None or self._ingest is None:
            raise UnavailableError(f"blob {self.ticket.digest} does not come any more")
        arrived = self._bringing[extent] = anyio.Event()
        try:
            denied = self._repository
            try:
                await denied.read(self.blob, extent, self._ingest.partial)
            except PermissionDeniedError:
                # logins have an end, and this may take longer
                await (await self._reopen(denied)).read(self.blob, extent, self._ingest.partial)
        finally:
            del self._bringing[extent]
            arrived.set()

    async def _reopen(self, denied: Repository | None) -> Repository:
        """The repository, with other credentials than those that were denied; without any, with what docker keeps now."""
        async with self._reopening:
            if denied and self._repository is None:
                raise UnavailableError(f"blob {self.ticket.digest} does not come any more")
            if self._repository is None or self._repository is denied:
                if denied and self._spare:
                    self._credentials, self._spare = self._spare, self._credentials
                await self._close()
                opened = self._registry.repository(
                    Reference.parse(self.ticket.reference),
                    self._credentials,
                    queue=self._registry.queue(PRIORITY),
                )
                self._repository = await self._repositories.enter_async_context(opened)
            return self._repository

    async def _close(self) -> None:
        self._repository = None
        await self._repositories.aclose()

    async def _complete(self, ingest: Ingest) -> None:
        for again in (False, True):
            if ingest.committed or self.ticket.failed:
                break
            await self._bring_all(ingest.partial)
            try:
                await anyio.to_thread.run_sync(ingest.partial.verify)
            except DataLossError as exc:
                # bytes of an earlier try may be at fault: once more from nothing
                if again:
                    self.ticket = msgspec.structs.replace(self.ticket, failed=exc.message)
            else:
                await ingest.sync()
                break
        await self._until_done(ingest)
        if self.ticket.failed:
            self._turn("")
            await anyio.sleep_forever()  # what is used of it still comes

    async def _until_done(self, ingest: Ingest) -> None:
        """Tell, as often as it takes: snapshotd may be away."""
        wait_s = RETRY_S
        while True:
            try:
                await self._done(self, ingest)
            except SlipwayError as exc:
                _log.warning("lazy.done_waits", digest=self.ticket.digest, error=exc.message)
                await self._stuck(exc.message, wait_s)
                wait_s = min(wait_s * 2, LONGEST_RETRY_S)
            else:
                return

    async def _bring_all(self, partial: Partial) -> None:
        wait_s = RETRY_S
        while missing := list(partial.missing()):
            first = extents.within(missing, *self._first)
            if not first:
                await self._quiet()
            piece = extents.pieces(first or missing)[0]
            try:
                with anyio.CancelScope() as self._filling:
                    await self._bring(partial, *piece)
                self._filling = None
                self._turn("")
                wait_s = RETRY_S
            except SlipwayError as exc:
                _log.warning("lazy.fill_waits", digest=self.ticket.digest, error=exc.message, seconds=wait_s)
                await self._stuck(exc.message, wait_s)
                wait_s = min(wait_s * 2, LONGEST_RETRY_S)

    async def _stuck(self, why: str, seconds: float) -> None:
        """Wait before another try, unless somebody wants it now."""
        self._turn(why)
        await self._pause(seconds)
        self._hurried = anyio.Event()

    def _turn(self, trouble: str) -> None:
        """It goes on, or why it does not; those who wait for all of it look again."""
        self._trouble = trouble
        self._turned.set()
        self._turned = anyio.Event()

    async def _quiet(self) -> None:
        """Wait until nobody has waited for bytes for a while, or somebody waits for all of them."""
        await self._pause(self._not_before - time.monotonic())
        until = time.monotonic() + PATIENCE_S
        while (now := time.monotonic()) < until and not self._hurried.is_set():
            ready = now if not self._waiting else until
            ready = max(ready, self._waited_at + QUIET_S)
            if ready <= now:
                return
            await self._pause(min(ready, until, now + QUIET_S) - now)

    async def _pause(self, seconds: float) -> None:
        with anyio.move_on_after(max(0.0, seconds)):
            await self._hurried.wait()


def _read(path: str, offset: int) -> bytes:
    with open(path, "rb") as blob:  # noqa: PTH123 - as text of the content store
        blob.seek(offset)
        return blob.read()
