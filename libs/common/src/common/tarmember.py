"""Members of tar archives that come from anybody: what their headers ask for is bounded, and what is damaged is told."""

import tarfile
from collections.abc import Iterator
from typing import Self

MAX_EXTENSION_BYTES = 1 << 20
"""Of a header that holds a long name or extended attributes, as Go's archive/tar bounds it; tarfile reads any in one go."""
_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_NO_HEADERS = (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError)  # type: ignore[attr-defined]


class Member(tarfile.TarInfo):
    """For `tarfile.open(tarinfo=Member)`, which takes a header that is damaged or cut for the end of the archive.

    Each fault is a tarfile.ReadError: what tarfile raises besides, too.
    """

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """The next member, with its extended headers."""
        try:
            found = super().fromtarfile(tarfile_)
        except (*_NO_HEADERS, ValueError, RecursionError) as exc:
            raise tarfile.ReadError(str(exc)) from exc
        if found.size < 0:
            message = f"{found.name!r}: has a size of {found.size} bytes"
            raise tarfile.ReadError(message)
        return found

    def _proc_member(self, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        # each header passes here before its body is read; newer releases of Python pass by `frombuf`
        if self.size < 0 or (self.type in _EXTENSIONS and self.size > MAX_EXTENSION_BYTES):
            message = f"an extended header of more than {MAX_EXTENSION_BYTES} bytes, or of less than none"
            raise tarfile.ReadError(message)
        found: tarfile.TarInfo = super()._proc_member(tarfile_)  # type: ignore[misc]
        return found


def members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """All members from here on, of which none is remembered: tarfile keeps their names and attributes until the end."""
    while (found := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        yield found
