"""Archives on their way in: every file of a tar goes into a directory of its own, under a number, and is hashed."""

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from common.errors import DataLossError, InvalidArgumentError
from imaged.adapters.ingest import disk_error
from imaged.archive.inflate import Inflater
from imaged.archive.tarstream import Kind, Member, TarParser
from imaged.ports import Spooled, SpooledFile

PREFIX = "load-"
MAX_LOADS = 4
_HEAD_BYTES = 16
_BLOB = re.compile(r"blobs/(sha256|sha384|sha512)/([a-f0-9]+)")


class Spools:
    """Makes spools below a directory.

    Args:
        root: the directory; on the file system of the content store, which takes files from here by their name.
        max_bytes: an archive with more is refused.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._limiter = CapacityLimiter(MAX_LOADS)

    def clear(self) -> None:
        """Remove what a process that died has left; once, at start. Blocks."""
        for path in self._root.glob(f"{PREFIX}*"):
            shutil.rmtree(path, ignore_errors=True)

    @asynccontextmanager
    async def directory(self) -> AsyncIterator[str]:
        """A directory to work in; see `imaged.ports.Workplace`."""
        path = self._root / f"{PREFIX}{secrets.token_hex(8)}"
        try:
            await anyio.to_thread.run_sync(path.mkdir, 0o700)
            yield str(path)
        except OSError as exc:
            raise disk_error(exc, path) from exc
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(shutil.rmtree, path, True)

    @asynccontextmanager
    async def spool(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[Spooled]:
        """Read an archive to its end; see `imaged.ports.Archives`."""
        directory = self._root / f"{PREFIX}{secrets.token_hex(8)}"
        spool: _Spool | None = None
        async with self._limiter:
            try:
                spool = await anyio.to_thread.run_sync(_Spool, directory, self._max_bytes)
                async for chunk in chunks:
                    await anyio.to_thread.run_sync(spool.feed, chunk)
                await anyio.to_thread.run_sync(spool.close)
                yield Spooled(spool.files, spool.links)
            finally:
                if spool is not None:
                    spool.close_file()
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(shutil.rmtree, directory, True)


class _Spool:
    """A sink that writes. Every method blocks."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._left = max_bytes
        self._max_bytes = max_bytes
        self._inflater = Inflater()
        self._parser = TarParser(self)
        self._first = b""
        self._begun = False
        self._fd = -1
        self._hash: Any = None
        self._member = Member("", Kind.FILE, 0, "")
        self.files: dict[str, SpooledFile] = {}
        self.links: dict[str, str] = {}
        try:
            directory.mkdir(mode=0o700)
        except OSError as exc:
            raise disk_error(exc, directory) from exc

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the archive."""
        if not self._begun:
            # its compression shows in the first bytes, which may come one by one
            self._first += chunk
            if len(self._first) < _HEAD_BYTES:
                return
            chunk, self._first, self._begun = self._first, b"", True
        self._take(chunk)

    def close(self) -> None:
        """The archive has ended: it must be whole."""
        if not self._begun and self._first:
            self._take(self._first)
        self._inflater.close()
        self._parser.close()

    def begin(self, member: Member) -> None:
        self._member = member
        if member.kind is Kind.LINK:
            self.links[member.name] = member.target
        if member.kind is not Kind.FILE:
            return
        if member.size > self._left:
            raise InvalidArgumentError(f"archive: more than {self._max_bytes} bytes in files")
        self._left -= member.size
        path = self._path()
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise disk_error(exc, path) from exc
        found = _BLOB.fullmatch(member.name)
        self._hash = hashlib.new(found[1] if found else "sha256", usedforsecurity=False)

    def write(self, piece: bytes) -> None:
        view = memoryview(piece)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as exc:
            raise disk_error(exc, self._directory) from exc
        self._hash.update(piece)

    def end(self) -> None:
        path = self._path()
        self.close_file()
        name, value = self._member.name, self._hash.hexdigest()
        found = _BLOB.fullmatch(name)
        if found and found[2] != value:
            raise DataLossError(f"archive: {name} has the digest {self._hash.name}:{value}")
        self.files[name] = SpooledFile(str(path), f"{self._hash.name}:{value}", self._member.size)

    def _take(self, chunk: bytes) -> None:
        for piece in self._inflater.feed(chunk):
            self._parser.feed(piece)

    def _path(self) -> Path:
        return self._directory / str(len(self.files))

    def close_file(self) -> None:
        """Close the file that is being written, if any."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
