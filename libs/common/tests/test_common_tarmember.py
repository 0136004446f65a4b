"""Headers of tar archives that ask for memory, for ever or for nonsense."""

import io
import tarfile
import tracemalloc
from collections.abc import Callable

import pytest

from common.tarmember import MAX_EXTENSION_BYTES, Member, members


def header(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(**told: str) -> bytes:
    info = tarfile.TarInfo("x")
    info.pax_headers = {name.replace("__", "."): value for name, value in told.items()}
    return info.tobuf(tarfile.PAX_FORMAT)


HOSTILE = {
    "a long name of megabytes": header(tarfile.GNUTYPE_LONGNAME, MAX_EXTENSION_BYTES + 1),
    "a long link of megabytes": header(tarfile.GNUTYPE_LONGLINK, MAX_EXTENSION_BYTES + 1),
    "attributes of gigabytes": header(tarfile.XHDTYPE, 1 << 40),
    "attributes for all of gigabytes": header(tarfile.XGLTYPE, 1 << 40),
    "Solaris' attributes": header(tarfile.SOLARIS_XHDTYPE, 1 << 40),
    "a name of less than nothing, which would be all that follows": header(tarfile.GNUTYPE_LONGNAME, -1024),
    "a file of less than nothing, after which all begins anew": header(tarfile.REGTYPE, -1024),
    "the same by an attribute": pax(size="-1024"),
    "names of names": (header(tarfile.GNUTYPE_LONGNAME, 1) + bytes(512)) * 2000,
    "a sparse map that is none": pax(GNU__sparse__major="1", GNU__sparse__minor="0") + b"x" * 1024,
}


FROMBUF: Callable[..., tarfile.TarInfo] = tarfile.TarInfo.frombuf.__func__  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("mode", ["r:", "r|"])
def test_a_header_that_asks_for_too_much_is_refused_before_it_is_read(case: str, mode: str) -> None:
    archive = io.BytesIO(HOSTILE[case] + bytes(4 * MAX_EXTENSION_BYTES))
    with pytest.raises(tarfile.ReadError), tarfile.open(fileobj=archive, mode=mode, tarinfo=Member) as tar:  # type: ignore[call-overload]
        list(members(tar))
    assert archive.tell() < MAX_EXTENSION_BYTES


@pytest.mark.parametrize("case", HOSTILE)
def test_so_it_is_by_a_tarfile_that_reads_headers_in_its_own_way(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fromtarfile(cls: type[tarfile.TarInfo], tar: tarfile.TarFile) -> tarfile.TarInfo:
        """As Python 3.13.13 has it: what overrides `frombuf` is not asked."""
        block = tar.fileobj.read(tarfile.BLOCKSIZE)
        info = FROMBUF(cls, block, tar.encoding, tar.errors)
        info.offset = tar.fileobj.tell() - tarfile.BLOCKSIZE
        found: tarfile.TarInfo = info._proc_member(tar)  # type: ignore[attr-defined]
        return found

    monkeypatch.setattr(tarfile.TarInfo, "fromtarfile", classmethod(fromtarfile))
    test_a_header_that_asks_for_too_much_is_refused_before_it_is_read(case, "r|")


def test_attributes_of_many_members_are_not_kept() -> None:
    one = pax(comment="x" * (MAX_EXTENSION_BYTES // 2))
    archive = io.BytesIO(one * 60)
    tracemalloc.start()
    try:
        with tarfile.open(fileobj=archive, mode="r|", tarinfo=Member) as tar:
            assert sum(1 for _ in members(tar)) == 60
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16 * MAX_EXTENSION_BYTES
