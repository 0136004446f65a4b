"""The reader of a tar that comes in pieces: told as it was written, bounded in all that it holds, and in no time."""

import gzip
import io
import tarfile
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InvalidArgumentError, SlipwayError
from imaged.archive import tarstream
from imaged.archive.inflate import Inflater
from imaged.archive.tarstream import Kind, Member, TarParser
from services.imaged.tests.archiving import linked, tar, typed
from tests.support.pace import patience


@pytest.mark.parametrize("named", [b"", b"path"])
def test_headers_and_names_are_bounded_together(named: bytes) -> None:
    """Each may be a MiB and shrinks to a thousandth in a compressed archive: none may be kept without end."""
    heap = Heap()
    parser = TarParser(heap)
    with pytest.raises(InvalidArgumentError, match="more than"):
        for number in range(40):
            value = b"%d" % number + b"x" * (900 << 10)
            record = b" " + (named or b"%d" % number) + b"=" + value + b"\n"
            size = len(record) + 6
            extended = tarfile.TarInfo("x")
            extended.type, extended.size = tarfile.XHDTYPE, size
            parser.feed(extended.tobuf() + b"%06d" % size + record + bytes(-size % 512))
            if named:
                parser.feed(tarfile.TarInfo("y").tobuf())
    assert len(heap.members) < 20


class Heap:
    """A sink in memory."""

    def __init__(self) -> None:
        self.members: list[tuple[Member, bytes]] = []

    def begin(self, member: Member) -> None:
        self.members.append((member, b""))

    def write(self, piece: bytes) -> None:
        member, body = self.members[-1]
        self.members[-1] = (member, body + piece)

    def end(self) -> None: ...


def pax(records: bytes) -> bytes:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    return header.tobuf() + records + bytes(-len(records) % 512)


def test_the_headers_of_one_member_are_bounded_together() -> None:
    parser = TarParser(Heap())
    with pytest.raises(InvalidArgumentError, match="extended headers of more than"):
        for number in range(20):
            parser.feed(pax(b"100008 k%d=%b\n" % (number % 10, b"v" * 99_997)))


def test_directories_count_as_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarstream, "MAX_MEMBERS", 10)
    with pytest.raises(InvalidArgumentError, match="more than 10 members"):
        TarParser(Heap()).feed(tar(*(typed(f"d{n}", tarfile.DIRTYPE) for n in range(20))))


def test_many_small_things_take_no_longer_than_their_bytes() -> None:
    start = time.process_time()
    TarParser(Heap()).feed(pax(b"4 =\n" * 250_000))
    assert all(piece == b"" for piece in Inflater().feed(gzip.compress(b"") * 100_000))
    assert time.process_time() - start < patience(5)


@given(
    names=st.lists(st.from_regex(r"[a-zé0-9_/-]{1,300}", fullmatch=True), max_size=5, unique=True),
    body=st.binary(max_size=3000),
    form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    step=st.integers(1, 2000),
)
@settings(max_examples=200)
def test_members_are_told_as_tarfile_wrote_them(names: list[str], body: bytes, form: int, step: int) -> None:
    plain = list(dict.fromkeys("/".join(p for p in n.split("/") if p) for n in names))
    plain = [n for n in plain if n]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as made:
        for name in plain:
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            made.addfile(entry, io.BytesIO(body))
    heap = Heap()
    parser = TarParser(heap)
    for start in range(0, len(out.getvalue()), step):
        parser.feed(out.getvalue()[start : start + step])
    parser.close()
    assert heap.members == [(Member(name, Kind.FILE, len(body), ""), body) for name in plain]


@given(st.binary(max_size=2000), st.integers(0, 1023), st.integers(0, 255))
@settings(max_examples=300)
def test_no_bytes_do_more_than_be_refused(noise: bytes, place: int, value: int) -> None:
    whole = bytearray(tar(("a", noise), linked("b", "a")))
    whole[place] = value
    for body in (noise, bytes(whole), gzip.compress(noise)[: len(noise)], b"\x28\xb5\x2f\xfd" + noise):
        heap, inflater = Heap(), Inflater()
        parser = TarParser(heap)
        try:
            for piece in inflater.feed(body):
                parser.feed(piece)
            inflater.close()
            parser.close()
        except SlipwayError:
            pass
        assert sum(len(b) for _, b in heap.members) <= len(body) * 2000
