"""The stream of a blob's content: the same for small ones, which have one thread, and for large ones, which have three."""

import gzip
import hashlib
import os
from collections.abc import Iterator

import pytest
import zstandard

from snapshotd.diff.stream import LayerStream, StreamError, TooBigError

CONTENT = {"small": b"no magic" + os.urandom(300_000), "large": b"no magic" + os.urandom(3_000_000)}
PACK = {
    "none": lambda content: content,
    "gzip": lambda content: gzip.compress(content, 1),
    "zstd": zstandard.ZstdCompressor().compress,
}
packed = pytest.mark.parametrize("kind", PACK)
sized = pytest.mark.parametrize("size", CONTENT)


def stream(blob: bytes, max_bytes: int = 1 << 30) -> LayerStream:
    fd = os.memfd_create("blob")
    os.write(fd, blob)
    os.lseek(fd, 0, os.SEEK_SET)
    made = LayerStream(fd, "application/vnd.oci.image.layer.v1.tar", "sha256", max_bytes)
    made.start()
    return made


def blocks(of: LayerStream) -> Iterator[bytes]:
    while block := of.read():
        yield block


@sized
@packed
def test_content_and_digest_are_those_of_the_blob(kind: str, size: str) -> None:
    found = stream(PACK[kind](CONTENT[size]))
    assert b"".join(blocks(found)) == CONTENT[size]
    assert found.compression == kind
    assert found.finish() == hashlib.sha256(CONTENT[size]).hexdigest()


@sized
@packed
def test_the_digest_covers_what_nobody_read(kind: str, size: str) -> None:
    found = stream(PACK[kind](CONTENT[size]))
    assert CONTENT[size].startswith(found.read())
    assert found.finish() == hashlib.sha256(CONTENT[size]).hexdigest()


@sized
@pytest.mark.parametrize("kind", PACK)
def test_a_blob_that_is_cut_has_another_digest(kind: str, size: str) -> None:
    blob = PACK[kind](CONTENT[size])
    found = stream(blob[: len(blob) // 2])
    if kind == "gzip":
        with pytest.raises(StreamError, match="its gzip data is damaged"):
            list(blocks(found))
    assert found.finish() != hashlib.sha256(CONTENT[size]).hexdigest()
    assert found.read() == b""


@sized
def test_a_blob_with_other_bytes_is_damaged(size: str) -> None:
    blob = bytearray(PACK["gzip"](CONTENT[size]))
    middle = len(blob) // 2
    blob[middle : middle + 64] = bytes(64)
    found = stream(bytes(blob))
    with pytest.raises(StreamError, match="its gzip data is damaged"):
        list(blocks(found))
    assert found.read() == b""


@sized
@packed
def test_content_beyond_the_bound_is_too_big(kind: str, size: str) -> None:
    length = len(CONTENT[size])
    assert b"".join(blocks(stream(PACK[kind](CONTENT[size]), length))) == CONTENT[size]
    found = stream(PACK[kind](CONTENT[size]), length - 1)
    with pytest.raises(TooBigError, match=f"larger than {length - 1} bytes"):
        list(blocks(found))
