"""Archives that ADD unpacks: tar, plain or packed with gzip, bzip2, xz or zstd, by their first bytes."""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import IO, Any

import zstandard

from common.errors import InvalidArgumentError
from common.tarmember import Member, members
from slipway.files import Entry

_MAX_WINDOW_BYTES = 1 << 27
_FEED_BYTES = 4 << 10
"""What goes to zstd at once: a block of 128 KiB may be four bytes, so this bounds the memory to 128 MiB."""
_BUFFER_BYTES = 64 << 10


@contextmanager
def archive(file: IO[bytes], name: str) -> Iterator[Iterator[Entry] | None]:
    """The members of the archive that a file is, each to be read before the next.

    None when it has no first member, as what begins with zeros, which tar may take for the end of an archive.

    Raises:
        InvalidArgumentError: it is damaged after the first; comes from the block.
    """
    plain = _Plain(file)
    tar = _opened(plain)
    first = tar.next() if tar else None
    if tar is None or first is None:
        yield None
        return
    try:
        yield (
            (info, tar.extractfile(info) if info.isreg() else None) for info in chain([first], members(tar))
        )
        while plain.read(_BUFFER_BYTES):  # a checksum is at the end
            pass
    except tarfile.TarError as exc:
        message = f"{name!r}: the archive is damaged: {exc}"
        raise InvalidArgumentError(message) from exc


def _opened(plain: Any) -> tarfile.TarFile | None:
    try:
        return tarfile.open(fileobj=plain, mode="r|", bufsize=_BUFFER_BYTES, tarinfo=Member)
    except tarfile.TarError:
        return None


class _Plain:
    """What a file holds once it is no longer packed."""

    def __init__(self, file: IO[bytes]) -> None:
        head = file.read(6)
        file.seek(0)
        self._source: Any = file
        for magic, unpacked in _PACKED.items():
            if head.startswith(magic):
                self._source = unpacked(file)

    def read(self, size: int) -> bytes:
        """Some of it; nothing at its end."""
        try:
            return bytes(self._source.read1(size))
        except (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as exc:
            raise tarfile.ReadError(str(exc)) from exc


class _Zstd:
    """As a file; zstandard's own reader takes a frame that is cut for a whole one."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._frame = self._begun()
        self._rest = b""

    def read1(self, _: int) -> bytes:
        plain = b""
        while not plain:
            piece = self._rest or self._file.read(_FEED_BYTES)
            if not piece and not self._frame.eof:
                raise EOFError("its last frame is cut off")
            if not piece:
                return b""
            if self._frame.eof:
                self._frame = self._begun()
            plain = self._frame.decompress(piece)
            self._rest = self._frame.unused_data if self._frame.eof else b""
        return plain

    @staticmethod
    def _begun() -> Any:
        return zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()


_PACKED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"\x28\xb5\x2f\xfd": _Zstd,
}
