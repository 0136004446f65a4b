"""Which files ADD unpacks, and that what is cut or damaged is told."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
from collections.abc import Callable

import pytest
import zstandard

from common.errors import InvalidArgumentError
from slipway.building.unpacking import archive

BODY = random.Random(1).randbytes(300_000)  # noqa: S311 - the same each time
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
    "zstd in two frames": lambda whole: zstandard.compress(whole[:1000]) + zstandard.compress(whole[1000:]),
}


def tar(*names: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(BODY)
            made.addfile(info, io.BytesIO(BODY))
    return out.getvalue()


def read(whole: bytes) -> dict[str, bytes] | None:
    with archive(io.BytesIO(whole), "a.tar") as members:
        return None if members is None else {info.name: data.read() for info, data in members if data}


@pytest.mark.parametrize("pack", PACKED)
def test_an_archive_is_read_however_it_is_packed(pack: str) -> None:
    assert read(PACKED[pack](tar("one", "two"))) == {"one": BODY, "two": BODY}


@pytest.mark.parametrize("pack", PACKED)
@pytest.mark.parametrize("content", [bytes(4096), bytes(2048) + b"\x53\xef", b"", b"text", b"\x1f\x8b"])
def test_what_begins_with_zeros_or_has_no_member_is_no_archive(pack: str, content: bytes) -> None:
    assert read(PACKED[pack](content)) is None


@pytest.mark.parametrize("pack", PACKED)
def test_one_that_is_cut_or_damaged_is_told(pack: str) -> None:
    whole = tar("one", "two")
    header = whole.index(b"two")
    damaged = PACKED[pack](whole[:header] + b"x" + whole[header + 1 :])
    for wrong in (PACKED[pack](whole[: header - 1000]), PACKED[pack](whole[: header + 100]), damaged):
        with pytest.raises(InvalidArgumentError, match=r"'a\.tar': the archive is damaged: "):
            read(wrong)


@pytest.mark.parametrize("pack", ["gzip", "bzip2", "xz", "zstd"])
def test_one_whose_packed_end_is_missing_is_told(pack: str) -> None:
    packed = PACKED[pack](tar("one", "two"))
    with pytest.raises(InvalidArgumentError, match="damaged"):
        read(packed[:-9])


def test_a_name_of_megabytes_is_refused_before_it_is_read() -> None:
    long = tarfile.TarInfo("x")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 64 << 20
    start = tar("one")
    start = start[: start.rindex(BODY) + -(-len(BODY) // 512) * 512]
    whole = gzip.compress(start + long.tobuf(tarfile.GNU_FORMAT) + bytes(64 << 20) + tar("two"))
    with pytest.raises(InvalidArgumentError, match="an extended header of more than"):
        read(whole)
