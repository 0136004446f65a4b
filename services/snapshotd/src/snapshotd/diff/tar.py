"""Reading tar by libarchive: the few calls of its C API that unpacking needs.

libarchive-c is not used here: its import declares the whole library, and its iteration copies each block.
Signatures are from libarchive 3.6's archive.h and archive_entry.h.
"""

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

_EOF, _OK, _WARN = 1, 0, -20
_BLOCK_BYTES = 512
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_READ_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
)


class TarError(Exception):
    """The bytes are no whole tar."""


class Entry(NamedTuple):
    """One header; `mode` has the type bits, names are as in the archive."""

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    hardlink: bytes | None
    symlink: bytes | None
    device: tuple[int, int]
    xattrs: list[tuple[bytes, bytes]]
    sparse: bool


def _load() -> ctypes.CDLL:
    lib = ctypes.CDLL("libarchive.so.13")
    pointer, text, number, wide = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int64
    table: dict[str, tuple[object, tuple[object, ...]]] = {
        "read_new": (pointer, ()),
        "read_free": (number, (pointer,)),
        "read_support_format_tar": (number, (pointer,)),
        "read_support_format_empty": (number, (pointer,)),
        "read_open": (number, (pointer, pointer, pointer, _READ_CALLBACK, pointer)),
        "read_next_header": (number, (pointer, ctypes.POINTER(pointer))),
        "read_data_into_fd": (number, (pointer, number)),
        "error_string": (text, (pointer,)),
        "errno": (number, (pointer,)),
        "entry_pathname": (text, (pointer,)),
        "entry_hardlink": (text, (pointer,)),
        "entry_symlink": (text, (pointer,)),
        "entry_mode": (ctypes.c_uint, (pointer,)),
        "entry_uid": (wide, (pointer,)),
        "entry_gid": (wide, (pointer,)),
        "entry_size": (wide, (pointer,)),
        "entry_mtime": (ctypes.c_long, (pointer,)),
        "entry_mtime_nsec": (ctypes.c_long, (pointer,)),
        "entry_rdevmajor": (ctypes.c_uint, (pointer,)),
        "entry_rdevminor": (ctypes.c_uint, (pointer,)),
        "entry_sparse_count": (number, (pointer,)),
        "entry_xattr_reset": (number, (pointer,)),
        "entry_xattr_next": (
            number,
            (
                pointer,
                ctypes.POINTER(text),
                ctypes.POINTER(pointer),
                ctypes.POINTER(ctypes.c_size_t),
            ),
        ),
    }
    for name, (result, arguments) in table.items():
        function = getattr(lib, f"archive_{name}")
        function.restype, function.argtypes = result, arguments
    return lib


_lib = _load()
"""In memory before the helper's root changes."""


class TarReader:
    """Iterates over the headers of a tar; `read` gives the next block, empty at the end.

    An exception of `read` ends the archive and is raised again from the call in progress.
    """

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._lib = _lib
        self._read = read
        self._failure: BaseException | None = None
        self._block = b""
        self._total = 0
        self._callback = _READ_CALLBACK(self._feed)  # libarchive keeps its address
        self._archive = self._lib.archive_read_new()
        self._lib.archive_read_support_format_tar(self._archive)
        self._lib.archive_read_support_format_empty(self._archive)
        self._check(self._lib.archive_read_open(self._archive, None, None, self._callback, None))

    def _feed(self, _archive: int, _client: int, block: "ctypes._Pointer[ctypes.c_void_p]") -> int:
        try:
            self._block = self._read()
        except BaseException as exc:  # noqa: BLE001 - nothing may pass through C; _check raises it again
            self._failure = exc
            return -1
        if not self._block:
            # some writers (umoci 0.4) leave out the last file's padding; a layer that was cut has another diff ID
            self._block = bytes(-self._total % _BLOCK_BYTES)
        self._total += len(self._block)
        block[0] = ctypes.cast(ctypes.c_char_p(self._block), ctypes.c_void_p)
        return len(self._block)

    def _check(self, status: int) -> None:
        if status in (_OK, _WARN):
            return
        if self._failure:
            raise self._failure
        number = self._lib.archive_errno(self._archive)
        if number in _DISK_ERRORS:
            raise OSError(number, os.strerror(number))
        text = self._lib.archive_error_string(self._archive) or b"damaged"
        raise TarError(text.decode("utf-8", "backslashreplace"))

    def __iter__(self) -> Iterator[Entry]:
        entry = ctypes.c_void_p()
        reference = ctypes.byref(entry)
        following = self._lib.archive_read_next_header
        while True:
            status = following(self._archive, reference)
            if status == _EOF:
                return
            if status:
                self._check(status)
            yield self._entry(entry)

    def _entry(self, raw: ctypes.c_void_p) -> Entry:
        lib = self._lib
        name = lib.archive_entry_pathname(raw)
        if name is None:
            message = "an entry's name cannot be read"
            raise TarError(message)
        mode = lib.archive_entry_mode(raw)
        kind = mode & 0o170000
        special = kind in (0o020000, 0o060000)
        return Entry(
            name=name,
            mode=mode,
            uid=lib.archive_entry_uid(raw),
            gid=lib.archive_entry_gid(raw),
            size=lib.archive_entry_size(raw),
            mtime_ns=lib.archive_entry_mtime(raw) * 1_000_000_000 + lib.archive_entry_mtime_nsec(raw),
            hardlink=lib.archive_entry_hardlink(raw),
            symlink=lib.archive_entry_symlink(raw) if kind == 0o120000 else None,
            device=(lib.archive_entry_rdevmajor(raw), lib.archive_entry_rdevminor(raw))
            if special
            else (0, 0),
            xattrs=self._xattrs(raw) if lib.archive_entry_xattr_reset(raw) else [],
            sparse=lib.archive_entry_sparse_count(raw) > 0,
        )

    def _xattrs(self, raw: ctypes.c_void_p) -> list[tuple[bytes, bytes]]:
        name, value, size = ctypes.c_char_p(), ctypes.c_void_p(), ctypes.c_size_t()
        found: list[tuple[bytes, bytes]] = []
        # the end of the list answers ARCHIVE_WARN
        while not self._lib.archive_entry_xattr_next(
            raw, ctypes.byref(name), ctypes.byref(value), ctypes.byref(size)
        ):
            if name.value:
                found.append((name.value, ctypes.string_at(value.value, size.value) if value.value else b""))
        return found

    def write_data(self, fd: int) -> None:
        """Write the current entry's bytes; holes are skipped, and one at the end is left to the caller."""
        self._check(self._lib.archive_read_data_into_fd(self._archive, fd))
