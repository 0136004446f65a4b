"""The blobs that come: begun by a pull, gone on with after a restart, ended when whole or when nobody needs them."""

import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import TaskGroup

from common.errors import DataLossError, InvalidArgumentError, NotFoundError, SlipwayError
from common.events.schema import Event, LayerDamaged, LayerFilled, LayerUnread
from common.observe.log import get_logger
from common.sys.files import replace_file
from imaged.lazy.coming import Coming, Ticket
from imaged.leases import Leases
from imaged.manifest import Descriptor
from imaged.ports import Content, Credentials, Ingest, Layers, Registry
from imaged.reference import Reference

BEGIN_S = 30.0
"""The longest that a table of contents may take before the layer is pulled as any other."""
SWEEP_S = 60.0
UNREAD_S = 60.0
"""Failed reads of one blob are told once in this time."""
_log = get_logger("lazy")


@dataclass(frozen=True, slots=True)
class LazyPlaces:
    """Where it is kept what comes, and what does."""

    directory: Path
    """Of tickets."""
    secrets: Path
    """A directory of the run directory, for credentials: these are on no disk."""
    min_bytes: int
    """Smaller layers are pulled as always."""
    fill_delay_s: float
    """How long a fill leaves the link to who starts."""


class LazyBlobs:
    """All blobs that come.

    Args:
        places: where it is kept.
        content: where they go.
        registry: where they come from.
        layers: where they are served and unpacked.
        leases: know what is needed.
        emit: tells events.
        task_group: they live here.
    """

    def __init__(
        self,
        places: LazyPlaces,
        content: Content,
        registry: Registry,
        layers: Layers,
        leases: Leases,
        *,
        emit: Callable[[Event], Awaitable[None]],
        task_group: TaskGroup,
    ) -> None:
        self._directory, self._secrets, self._min_bytes = places.directory, places.secrets, places.min_bytes
        self._fill_delay_s = places.fill_delay_s
        self._content, self._registry, self._layers, self._leases = content, registry, layers, leases
        self._emit, self._group = emit, task_group
        self._coming: dict[str, Coming] = {}
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._told_at: dict[str, float] = {}
        self._unread: dict[str, str] = {}
        for path in (self._directory, self._secrets):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def failure(self, digest: str) -> str:
        """Why a blob will never be whole, or why a container could not read it last; empty when all is well."""
        found = self._coming.get(digest)
        return (found.ticket.failed or self._unread.get(digest, "")) if found else ""

    def has(self, digest: str) -> bool:
        """Whether a blob still comes."""
        return digest in self._coming

    async def until_whole(self, digest: str) -> None:
        """Wait for a blob that comes, if it does.

        Raises:
            FailedPreconditionError: it will never be whole, or cannot go on now.
        """
        coming = self._coming.get(digest)
        if coming:
            await coming.until_whole()

    async def begin(
        self, reference: Reference, credentials: Credentials, layer: Descriptor, diff_id: str
    ) -> bool:
        """Have a layer served while it comes; False when it must be pulled as always."""
        if not layer.toc or layer.size < self._min_bytes or self._content.has(layer.digest):
            return False
        async with self._locks.setdefault(layer.digest, anyio.Lock()):
            if layer.digest in self._coming:
                return True
            ticket = Ticket(
                reference=str(reference),
                digest=layer.digest,
                size=layer.size,
                media_type=layer.media_type,
                diff_id=diff_id,
            )
            coming = self._start(ticket, credentials)
            try:
                with anyio.fail_after(BEGIN_S):
                    path, (toc_start, toc_end) = await coming.open(layer.toc)
                    await anyio.to_thread.run_sync(self._keep, ticket, credentials)
                    served = await self._layers.serve_layer(
                        diff_id=diff_id,
                        digest=layer.digest,
                        blob_path=path,
                        media_type=layer.media_type,
                        size_bytes=layer.size,
                        toc_offset=toc_start,
                        toc_bytes=toc_end - toc_start,
                        toc_digest=layer.toc.digest,
                    )
            except (SlipwayError, TimeoutError) as exc:
                why = (
                    exc.message if isinstance(exc, SlipwayError) else f"no table of contents in {BEGIN_S:g} s"
                )
                _log.info("lazy.refused", reference=str(reference), digest=layer.digest, why=why)
                await self._end(coming)
                return False
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._end(coming)
                raise
            coming.fill(served.prefetch_bytes)
            _log.info("lazy.served", reference=str(reference), digest=layer.digest, bytes=layer.size)
            return True

    async def renew(self, reference: Reference, credentials: Credentials) -> None:
        """Hand on what a pull could log in with, to all that comes from the same repository."""
        for coming in list(self._coming.values()):
            if Reference.parse(coming.ticket.reference).repository == reference.repository:
                if credentials:
                    await anyio.to_thread.run_sync(self._keep_secret, coming.ticket, credentials)
                coming.offer(credentials)

    async def bring(self, digest: str, start: int, end: int, *, again: bool) -> None:
        """Have a range of a blob that comes here.

        Raises:
            NotFoundError: it does not come.
            SlipwayError: its registry does not give it.
        """
        coming = self._coming.get(digest)
        if coming is None:
            if self._content.has(digest):
                return
            raise NotFoundError(f"blob {digest} does not come")
        if not 0 <= start < end <= coming.ticket.size:
            raise InvalidArgumentError(
                f"bytes {start} to {end} of blob {digest}: it has {coming.ticket.size}"
            )
        await coming.bring(start, end, again=again)
        self._unread.pop(digest, None)

    async def unread(self, digest: str, why: str) -> None:
        """Tell that a read has failed."""
        coming = self._coming.get(digest)
        now = anyio.current_time()
        if coming:
            self._unread[digest] = why
        if coming is None or now - self._told_at.get(digest, -UNREAD_S) < UNREAD_S:
            return
        self._told_at[digest] = now
        _log.error("lazy.unread", digest=digest, reference=coming.ticket.reference, error=why)
        await self._tell(LayerUnread(id=digest, reference=coming.ticket.reference, error=why))

    async def run(self) -> None:
        """Go on with what a restart has cut off, and end what nobody needs. A long task."""
        for ticket, credentials in await anyio.to_thread.run_sync(self._kept):
            self._start(ticket, credentials).fill()
        while True:
            await self.sweep()
            await anyio.sleep(SWEEP_S)

    async def sweep(self) -> None:
        """End what neither an image, nor running work, nor a layer of snapshotd needs."""
        if not self._coming:
            return
        try:
            diff_ids = sorted({each.ticket.diff_id for each in self._coming.values()})
            held = {layer.diff_id for layer in await self._layers.list_layers(diff_ids)}
        except SlipwayError as exc:
            _log.warning("lazy.sweep_failed", error=exc.message)
            return
        needed = self._leases.needed().digests
        for coming in list(self._coming.values()):
            if coming.ticket.digest not in needed and coming.ticket.diff_id not in held:
                _log.info("lazy.dropped", digest=coming.ticket.digest)
                await self._end(coming, discard=True)

    def _start(self, ticket: Ticket, credentials: Credentials) -> Coming:
        coming = Coming(ticket, credentials, self._content, self._registry, self._done, self._fill_delay_s)
        self._coming[ticket.digest] = coming
        self._group.start_soon(coming.run, name=f"lazy {ticket.digest[:19]}")
        return coming

    async def _end(self, coming: Coming, *, discard: bool = False) -> None:
        await coming.end(discard=discard)
        await self._forget(coming)

    async def _forget(self, coming: Coming) -> None:
        self._coming.pop(coming.ticket.digest, None)
        self._told_at.pop(coming.ticket.digest, None)
        self._unread.pop(coming.ticket.digest, None)
        await anyio.to_thread.run_sync(self._unlink, coming.ticket)

    async def _done(self, coming: Coming, ingest: Ingest) -> None:
        ticket = coming.ticket
        if not ticket.failed:
            try:
                await self._layers.apply_layer(
                    diff_id=ticket.diff_id,
                    digest=ticket.digest,
                    blob_path=ingest.path,
                    media_type=ticket.media_type,
                    size_bytes=ticket.size,
                )
            except (DataLossError, InvalidArgumentError) as exc:
                coming.ticket = msgspec.structs.replace(ticket, failed=exc.message)
        if coming.ticket.failed:
            await self._failed(coming.ticket)
            return
        await ingest.commit()
        await self._forget(coming)
        _log.info("lazy.filled", digest=ticket.digest, reference=ticket.reference)
        await self._tell(LayerFilled(id=ticket.digest, reference=ticket.reference, size_bytes=ticket.size))

    async def _failed(self, ticket: Ticket) -> None:
        _log.error("lazy.damaged", digest=ticket.digest, reference=ticket.reference, error=ticket.failed)
        await anyio.to_thread.run_sync(replace_file, self._path(ticket), msgspec.json.encode(ticket))
        await self._tell(LayerDamaged(id=ticket.digest, reference=ticket.reference, error=ticket.failed))

    async def _tell(self, event: Event) -> None:
        try:
            await self._emit(event)
        except SlipwayError as exc:
            _log.warning("event.lost", what=type(event).__name__, error=exc.message)

    def _path(self, ticket: Ticket) -> Path:
        return self._directory / ticket.digest.replace(":", "-")

    def _keep(self, ticket: Ticket, credentials: Credentials) -> None:
        if credentials:
            self._keep_secret(ticket, credentials)
        replace_file(self._path(ticket), msgspec.json.encode(ticket))

    def _keep_secret(self, ticket: Ticket, credentials: Credentials) -> None:
        secret = self._secrets / ticket.digest.replace(":", "-")
        replace_file(secret, base64.b85encode(msgspec.json.encode(credentials)), sync=False)

    def _kept(self) -> list[tuple[Ticket, Credentials]]:
        found = []
        for path in self._directory.iterdir():
            try:
                ticket = msgspec.json.decode(path.read_bytes(), type=Ticket)
                secret = self._secrets / path.name
                credentials = Credentials()
                if secret.exists():
                    credentials = msgspec.json.decode(base64.b85decode(secret.read_bytes()), type=Credentials)
                found.append((ticket, credentials))
            except (OSError, ValueError, msgspec.MsgspecError) as exc:
                _log.warning("lazy.ticket_unreadable", path=str(path), error=str(exc))
        return found

    def _unlink(self, ticket: Ticket) -> None:
        for directory in (self._directory, self._secrets):
            (directory / ticket.digest.replace(":", "-")).unlink(missing_ok=True)
