"""The content store: `blobs/<algorithm>/<hex>` for what is whole, `ingest/` for what is not."""

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from common.digest import Digest
from common.errors import DataLossError, NotFoundError
from imaged.adapters.ingest import PartialFile, disk_error
from imaged.manifest import Descriptor

DISK_THREADS = 8
SCARCE = 0.1
"""Of the file system, what is little to have left."""
_SUFFIX = ".part"


class LocalContent:
    """Blobs in a directory, mode 0600; an index in memory answers questions.

    Args:
        root: the directory; made when absent.
    """

    def __init__(self, root: Path) -> None:
        self.blobs = root / "blobs"
        self.ingests = root / "ingest"
        self._sizes: dict[str, int] = {}
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._limiter = CapacityLimiter(DISK_THREADS)
        self.used_bytes = 0

    async def load(self) -> None:
        """Read the directory; once, at start."""
        self._sizes = await anyio.to_thread.run_sync(self._scan, limiter=self._limiter)
        self.used_bytes = sum(self._sizes.values())

    async def usage(self) -> tuple[int, int]:
        """Bytes on disk and files: of blobs from memory, of what is not whole by a look."""
        unfinished = await anyio.to_thread.run_sync(self._unfinished)
        return self.used_bytes + sum(unfinished), len(self._sizes) + len(unfinished)

    async def is_scarce(self) -> bool:
        """Whether the disk has little room left; see `imaged.ports.Content`."""

        def free_share() -> float:
            found = os.statvfs(self.ingests)
            return found.f_bavail / found.f_blocks if found.f_blocks else 1.0

        try:
            return await anyio.to_thread.run_sync(free_share, limiter=self._limiter) < SCARCE
        except OSError:
            return False

    def has(self, digest: str) -> bool:
        return digest in self._sizes

    def size(self, digest: str) -> int | None:
        return self._sizes.get(digest)

    def all(self) -> list[str]:
        return list(self._sizes)

    def path(self, digest: str) -> str:
        return str(self._path(Digest.parse(digest)))

    async def read(self, digest: str) -> bytes:
        """A small blob.

        Raises:
            NotFoundError: it is not here.
        """
        path = self._path(Digest.parse(digest))
        try:
            return await anyio.to_thread.run_sync(path.read_bytes, limiter=self._limiter)
        except FileNotFoundError as exc:
            with ExitStack() as held:
                if self._take(digest, held):
                    await self._is_here(digest)
            raise NotFoundError(f"blob {digest} is not in the content store") from exc
        except OSError as exc:
            raise disk_error(exc, path) from exc

    async def put(self, digest: Digest, body: bytes) -> None:
        """Store a small blob; see `imaged.ports.Content`."""
        async with self.ingest(Descriptor(str(digest), len(body))) as ingest:
            if ingest.committed:
                return

            def fill() -> None:
                ingest.partial.restart()
                ingest.partial.write(body, 0)
                ingest.partial.verify()
                ingest.partial.sync()

            await anyio.to_thread.run_sync(fill, limiter=self._limiter)
            await ingest.commit()

    async def adopt(self, descriptor: Descriptor, path: str) -> None:
        """Take a whole file; see `imaged.ports.Content`."""
        digest = Digest.parse(descriptor.digest)
        async with self._locks.setdefault(str(digest), anyio.Lock()):
            if await self._is_here(str(digest)):
                return

            def sync() -> None:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

            try:
                await anyio.to_thread.run_sync(sync, limiter=self._limiter)
            except OSError as exc:
                raise disk_error(exc, Path(path)) from exc
            await self._commit(digest, Path(path))

    async def delete(self, digests: Iterable[str]) -> None:
        """Remove blobs; see `imaged.ports.Content`."""
        with ExitStack() as held:
            await self._delete([digest for digest in digests if self._take(digest, held)])

    async def _delete(self, digests: Iterable[str]) -> None:
        """Remove blobs that the caller is at, so that nobody brings one while its file goes."""
        gone = {digest: self._sizes.pop(digest) for digest in digests if digest in self._sizes}
        self.used_bytes -= sum(gone.values())
        failures: dict[str, tuple[OSError, Path]] = {}

        def unlink() -> None:
            for digest in gone:
                path = self._path(Digest.parse(digest))
                try:
                    path.unlink(missing_ok=True)
                except OSError as exc:
                    failures[digest] = exc, path

        # a cancelled caller must not leave one whose file stays forgotten
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(unlink, limiter=self._limiter)
        for digest in failures:
            self._sizes[digest] = gone[digest]
            self.used_bytes += gone[digest]
        for exc, path in failures.values():
            raise disk_error(exc, path) from exc

    async def sweep(
        self, needed: Callable[[], set[str]], older_than_s: float, *, dry_run: bool = False
    ) -> dict[str, int]:
        """Remove what is unneeded; see `imaged.ports.Content`."""
        limit = time.time() - older_than_s
        old = await anyio.to_thread.run_sync(self._older, limit, list(self._sizes), limiter=self._limiter)
        with ExitStack() as held:
            keep = needed()  # what is not in it now is gone for all who ask before this task waits again
            gone = {digest: size for digest, size in old.items() if digest not in keep}
            gone = {digest: size for digest, size in gone.items() if self._take(digest, held)}
            if not dry_run:
                await self._delete(gone)
                await anyio.to_thread.run_sync(self._unlink_parts, list(gone), limiter=self._limiter)
        return gone

    @asynccontextmanager
    async def ingest(self, descriptor: Descriptor) -> AsyncIterator["LocalIngest"]:
        """Start or resume an unfinished blob; see `imaged.ports.Content`."""
        digest = Digest.parse(descriptor.digest)
        lock = self._locks.setdefault(str(digest), anyio.Lock())
        async with lock:
            if await self._is_here(str(digest)):
                found = self._sizes[str(digest)]
                if found != descriptor.size:
                    raise DataLossError(
                        f"blob {digest} has {found} bytes, the manifest says {descriptor.size}"
                    )
                yield LocalIngest(self, digest, self._path(digest), None)
                return
            path = self._part(digest)
            partial = await anyio.to_thread.run_sync(
                PartialFile, path, digest, descriptor.size, limiter=self._limiter
            )
            try:
                yield LocalIngest(self, digest, path, partial)
            finally:
                partial.close()

    def _older(self, limit: float, digests: list[str]) -> dict[str, int]:
        """The bytes on disk of blobs and unfinished ones that were changed before a time, by digest."""
        try:
            parts = list(self.ingests.glob(f"*{_SUFFIX}"))
        except OSError as exc:
            raise disk_error(exc, self.ingests) from exc
        paths = [(path.name.removesuffix(_SUFFIX).replace("-", ":", 1), path) for path in parts]
        paths += [(digest, self._path(Digest.parse(digest))) for digest in digests]
        found: dict[str, int] = defaultdict(int)
        for digest, path in paths:
            try:
                status = path.stat()
            except OSError:  # it went meanwhile, or cannot be looked at and stays
                continue
            if status.st_mtime < limit:
                found[digest] += min(status.st_size, status.st_blocks * 512)
        return found

    def _unfinished(self) -> list[int]:
        """The bytes on disk of each file that becomes a blob, and of those of archives on their way in."""
        found = []
        for directory, _, names in os.walk(self.ingests):
            for name in names:
                try:
                    found.append(os.lstat(f"{directory}/{name}").st_blocks * 512)
                except FileNotFoundError:
                    continue
        return found

    async def _is_here(self, digest: str) -> bool:
        """Whether a blob that the caller is at is on the disk, too; one that somebody else removed is forgotten, so that it is fetched again."""
        if not self.has(digest):
            return False
        path = self._path(Digest.parse(digest))
        if await anyio.to_thread.run_sync(path.exists, limiter=self._limiter):
            return True
        self.used_bytes -= self._sizes.pop(digest, 0)
        return False

    def _take(self, digest: str, held: ExitStack) -> bool:
        """Have a blob for oneself until `held` ends; false when somebody is at it."""
        lock = self._locks.setdefault(digest, anyio.Lock())
        if lock.statistics().locked:
            return False
        lock.acquire_nowait()
        held.callback(lock.release)
        return True

    def _unlink_parts(self, digests: list[str]) -> None:
        for digest in digests:
            path = self._part(Digest.parse(digest))
            try:
                path.unlink(missing_ok=True)
            except OSError as exc:
                raise disk_error(exc, path) from exc

    def _path(self, digest: Digest) -> Path:
        return self.blobs / digest.algorithm / digest.hex

    def _part(self, digest: Digest) -> Path:
        return self.ingests / f"{digest.algorithm}-{digest.hex}{_SUFFIX}"

    def _scan(self) -> dict[str, int]:
        for path in (self.blobs / "sha256", self.ingests):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return {
            f"{path.parent.name}:{path.name}": path.stat().st_size
            for path in self.blobs.glob("*/*")
            if path.is_file()
        }

    async def _commit(self, digest: Digest, path: Path) -> None:
        target = self._path(digest)

        def rename() -> int:
            try:
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.rename(target)
                fd = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
                return target.stat().st_size
            except OSError as exc:
                raise disk_error(exc, target) from exc

        # a cancelled caller must not leave a named blob uncounted
        with anyio.CancelScope(shield=True):
            size = await anyio.to_thread.run_sync(rename, limiter=self._limiter)
        self.used_bytes += size - self._sizes.get(str(digest), 0)
        self._sizes[str(digest)] = size


class LocalIngest:
    """One blob on its way; see `imaged.ports.Ingest`."""

    def __init__(
        self, content: LocalContent, digest: Digest, path: Path, partial: PartialFile | None
    ) -> None:
        self._content = content
        self._limiter = content._limiter  # noqa: SLF001 - its other half
        self._digest = digest
        self._path = path
        self._partial = partial
        self.committed = partial is None

    @property
    def path(self) -> str:
        return str(self._path)

    @property
    def partial(self) -> PartialFile:
        if self._partial is None:
            raise NotFoundError(f"blob {self._digest} is whole, nothing of it is unfinished")
        return self._partial

    async def sync(self) -> None:
        if not self.committed:
            await anyio.to_thread.run_sync(self.partial.sync, limiter=self._limiter)

    async def commit(self) -> None:
        if not self.committed:
            await self._content._commit(self._digest, self._path)  # noqa: SLF001 - its other half
            self.committed = True

    async def discard(self) -> None:
        if self.committed:
            if not await anyio.to_thread.run_sync(self._is_true, limiter=self._limiter):
                await self._content._delete([str(self._digest)])  # noqa: SLF001
        else:
            await anyio.to_thread.run_sync(self.partial.restart, limiter=self._limiter)

    def _is_true(self) -> bool:
        """Whether the disk still gives the bytes that were stored."""
        try:
            with self._path.open("rb") as blob:
                found = hashlib.file_digest(blob, self._digest.algorithm)
        except OSError:
            return False
        return found.hexdigest() == self._digest.hex
