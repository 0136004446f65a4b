"""Tables of contents: what is read of good ones, and what hostile ones may not do."""

import errno
import gzip
import hashlib
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from devtools.registry import directory, file, link
from snapshotd.diff.whiteout import BadEntryError
from snapshotd.lazy import toc
from snapshotd.lazy.chunks import Chunks
from snapshotd.lazy.member import ZSTD
from snapshotd.lazy.toc import BadTocError, Bounds
from snapshotd.lazy.tree import Node, Tree
from tests.support import estargz, zstdchunked
from tests.support.pace import patience

BOUNDS = Bounds(max_entries=1000, max_bytes=1 << 30)
BIG = bytes(range(256)) * 4096


def special(name: str, kind: bytes, target: str = "", device: tuple[int, int] = (0, 0)) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, target, 0o640
    made.devmajor, made.devminor = device
    return made


def good() -> list[estargz.Item]:
    dressed, content = file("etc/passwd", b"root\n", 0o4751)
    dressed.uid, dressed.gid, dressed.mtime = 12, 34, 1_600_000_000
    dressed.pax_headers = {"SCHILY.xattr.user.a": "1", "SCHILY.xattr.trusted.overlay.opaque": "y"}
    return [
        directory("etc", 0o750),
        (dressed, content),
        link("etc/again", "etc/passwd"),
        special("etc/link", tarfile.SYMTYPE, "../etc/passwd"),
        special("dev/null", tarfile.CHRTYPE, device=(1, 3)),
        special("pipe", tarfile.FIFOTYPE),
        file("lib/.wh.gone", b""),
        directory("var"),
        file("var/.wh..wh..opq", b""),
        file("big", BIG),
        file("empty", b""),
        estargz.landmark(prefetch=True),
    ]


def read(
    items: list[estargz.Item], bounds: Bounds = BOUNDS, **options: Any
) -> tuple[bytes, estargz.Written, Tree]:
    blob, written = estargz.made(items, **options)
    entries = toc.read(blob[written.toc_offset :], written.toc_digest, bounds)
    return blob, written, Tree(entries, written.toc_offset, bounds)


def node(tree: Tree, path: bytes) -> Node:
    found = tree.find(path)
    assert found
    return found


class NoSource:
    """All is here, or never comes."""

    def __init__(self) -> None:
        self.asked: list[bool] = []
        self.told = 0

    def bring(self, start: int, end: int, *, again: bool) -> None:
        self.asked.append(again)

    def damaged(self, start: int, end: int) -> None:
        self.told += 1


def content(path: Path, tree: Tree, name: bytes) -> bytes:
    with path.open("rb") as blob:
        chunks = Chunks(blob.fileno(), NoSource(), kept_bytes=100_000)
        return b"".join(chunks.get(chunk) for chunk in node(tree, name).chunks)


def test_files_are_what_an_unpacking_would_make() -> None:
    _, _, tree = read(good())
    passwd = node(tree, b"etc/passwd")
    assert (passwd.mode, passwd.uid, passwd.gid) == (stat.S_IFREG | 0o4751, 12, 34)
    assert passwd.mtime_ns == 1_600_000_000 * 10**9
    assert passwd.xattrs == {b"user.a": b"1"}  # what is overlayfs' own an image may not say
    assert node(tree, b"etc/again") is passwd
    assert passwd.nlink == 2
    assert node(tree, b"etc/link").link == b"../etc/passwd"
    assert (node(tree, b"dev/null").mode & stat.S_IFCHR, node(tree, b"dev/null").rdev) == (
        stat.S_IFCHR,
        0x103,
    )
    whiteout = node(tree, b"lib/gone")
    assert (stat.S_ISCHR(whiteout.mode), whiteout.rdev) == (True, 0)
    assert node(tree, b"var").xattrs == {b"trusted.overlay.opaque": b"y"}
    assert tree.implied == [b"", b"dev", b"lib"]
    assert set(node(tree, b"").children) == {b"etc", b"dev", b"pipe", b"lib", b"var", b"big", b"empty"}
    assert node(tree, b"").nlink == 2 + 4
    assert node(tree, b"big").size == len(BIG)
    assert tree.prefetch_bytes > 0


@pytest.mark.parametrize("chunk_bytes", [4 << 20, 300_000])
def test_files_have_their_bytes(tmp_path: Path, chunk_bytes: int) -> None:
    blob, _, tree = read(good(), chunk_bytes=chunk_bytes)
    (tmp_path / "blob").write_bytes(blob)
    assert content(tmp_path / "blob", tree, b"big") == BIG
    assert content(tmp_path / "blob", tree, b"etc/passwd") == b"root\n"
    assert content(tmp_path / "blob", tree, b"empty") == b""


def test_bytes_that_are_not_what_the_table_says_are_not_given_out(tmp_path: Path) -> None:
    blob, _, tree = read(good(), chunk_bytes=300_000, level=0)
    chunk = node(tree, b"big").chunks[1]
    (tmp_path / "blob").write_bytes(blob[: chunk.offset + 1000] + b"\xff" + blob[chunk.offset + 1001 :])
    source = NoSource()
    with (tmp_path / "blob").open("rb") as opened:
        chunks = Chunks(opened.fileno(), source)
        assert chunks.get(node(tree, b"big").chunks[0]) == BIG[:300_000]
        with pytest.raises(OSError, match="are not what the table"):
            chunks.get(chunk)
    assert source.asked == [False, True]
    assert source.told == 1


def test_no_table_is_read_that_the_manifest_does_not_vouch_for() -> None:
    blob, written = estargz.made(good())
    with pytest.raises(BadTocError, match="has the digest"):
        toc.read(blob[written.toc_offset :], "sha256:" + "0" * 64, BOUNDS)
    with pytest.raises(BadTocError, match="damaged"):
        toc.read(b"\x1f\x8bx" + bytes(600), written.toc_digest, BOUNDS)
    with pytest.raises(BadTocError, match="no tar"):
        toc.read(gzip.compress(b"x" * 600), written.toc_digest, BOUNDS)
    with pytest.raises(BadTocError, match=r"cut off|damaged|no tar"):
        toc.read(blob[written.toc_offset : written.toc_offset + 300], written.toc_digest, BOUNDS)


def chunked(
    items: list[estargz.Item], bounds: Bounds = BOUNDS, **options: Any
) -> tuple[bytes, estargz.Written, Tree]:
    blob, written = zstdchunked.made(items, **options)
    piece = blob[written.toc_offset : written.toc_offset + written.toc_bytes]
    return blob, written, Tree(toc.read(piece, written.toc_digest, bounds, ZSTD), written.toc_offset, bounds)


def test_a_zstd_chunked_layer_is_the_same_tree() -> None:
    items = [item for item in good() if item != estargz.landmark(prefetch=True)]
    _, _, one = read(items)
    _, _, other = chunked(items)
    assert len(one) == len(other)
    assert (one.implied, one.size_bytes) == (other.implied, other.size_bytes)
    for number in range(1, len(one) + 1):
        left, right = one.node(number), other.node(number)
        for name in ("mode", "uid", "gid", "size", "mtime_ns", "rdev", "nlink", "link", "children", "xattrs"):
            assert getattr(left, name) == getattr(right, name), (number, name)


@pytest.mark.parametrize("chunk_bytes", [4 << 20, 300_000])
def test_files_of_a_zstd_chunked_layer_have_their_bytes(tmp_path: Path, chunk_bytes: int) -> None:
    blob, _, tree = chunked(good(), chunk_bytes=chunk_bytes)
    (tmp_path / "blob").write_bytes(blob)
    with (tmp_path / "blob").open("rb") as opened:
        chunks = Chunks(opened.fileno(), NoSource(), ZSTD)
        assert b"".join(chunks.get(chunk) for chunk in node(tree, b"big").chunks) == BIG
        assert b"".join(chunks.get(chunk) for chunk in node(tree, b"etc/passwd").chunks) == b"root\n"
        damaged = blob[: (at := node(tree, b"big").chunks[0].offset) + 40] + bytes(8) + blob[at + 48 :]
        (tmp_path / "blob").write_bytes(damaged)
        source = NoSource()
        with pytest.raises(OSError, match="are not what the table"):
            Chunks(opened.fileno(), source, ZSTD).get(node(tree, b"big").chunks[0])
        assert source.told == 1


def test_a_hole_is_a_chunk_of_any_size_without_bytes() -> None:
    step, hole = 1 << 20, 40 << 20

    def joined(table: estargz.Toc) -> None:
        head, zeros, *_, last = table["entries"]
        table["entries"] = [head, zeros | {"chunkSize": hole}, last]

    _, _, tree = chunked([file("sparse", b"x" * step + bytes(hole) + b"y")], chunk_bytes=step, lie=joined)
    first, zeros, last = node(tree, b"sparse").chunks
    assert (first.size, zeros.start, zeros.size, zeros.sha256) == (step, step, hole, b"")
    assert (last.start, last.size) == (step + hole, 1)


def test_no_memory_is_not_damage(tmp_path: Path) -> None:
    blob, _, tree = chunked(good())
    (tmp_path / "blob").write_bytes(blob)

    def none(_frame: bytes, _limit: int) -> bytes:
        raise MemoryError

    source = NoSource()
    with (tmp_path / "blob").open("rb") as opened:
        chunks = Chunks(opened.fileno(), source, ZSTD._replace(inflated=none))
        with pytest.raises(OSError, match="no memory") as caught:
            chunks.get(node(tree, b"big").chunks[0])
    assert (caught.value.errno, source.asked, source.told) == (errno.ENOMEM, [], 0)


def test_fourteen_threads_with_the_largest_windows_have_memory_enough() -> None:
    """With a server's bound on its address space."""
    script = Path(__file__).with_name("many_windows.py")
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"MALLOC_ARENA_MAX": "2"},
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "all"), done.stderr


def test_a_chunk_is_given_out_by_its_own_digest_and_length_alone(tmp_path: Path) -> None:
    blob, _, tree = chunked(good())
    (tmp_path / "blob").write_bytes(blob)
    [chunk] = node(tree, b"etc/passwd").chunks
    with (tmp_path / "blob").open("rb") as opened:
        chunks = Chunks(opened.fileno(), NoSource(), ZSTD)
        assert chunks.get(chunk) == b"root\n"
        for lie in (chunk._replace(sha256=bytes(32)), chunk._replace(size=4), chunk._replace(size=6)):
            with pytest.raises(OSError, match="are not what the table"):
                chunks.get(lie)


def test_no_zstd_chunked_table_is_read_that_the_manifest_does_not_vouch_for() -> None:
    blob, written, _ = chunked(good())
    piece = blob[written.toc_offset : written.toc_offset + written.toc_bytes]
    with pytest.raises(BadTocError, match="has the digest"):
        toc.read(piece, "sha256:" + "0" * 64, BOUNDS, ZSTD)
    with pytest.raises(BadTocError, match="has the digest"):
        toc.read(piece + b"x", written.toc_digest, BOUNDS, ZSTD)
    for body, why in (
        (piece[:20] + b"\xff" * 20 + piece[40:], "damaged"),
        (piece[:-20], "damaged|malformed"),
        (b"no frame at all", "damaged"),
        (zstandard.compress(bytes(1 << 20)), "more than 1000 bytes"),
        (zstandard.compress(b"[1"), "malformed"),
    ):
        bounds = Bounds(max_entries=1000, max_bytes=1 << 30, max_toc_bytes=1000)
        with pytest.raises(BadTocError, match=why):
            toc.read(body, "sha256:" + hashlib.sha256(body).hexdigest(), bounds, ZSTD)


Lie = Callable[[estargz.Toc], None]


def entry(**changes: Any) -> Lie:
    """Puts one more entry into a table."""
    made = {"name": "x", "type": "reg", "mode": 0o644} | changes
    return lambda table: table["entries"].append(made)


def first(name: str, **changes: Any) -> Lie:
    def lie(table: estargz.Toc) -> None:
        next(e for e in table["entries"] if e["name"] == name).update(changes)

    return lie


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        (entry(name="../x"), "'..'"),
        (entry(name="a/../../x"), "'..'"),
        (entry(name="etc/passwd"), "twice"),
        (entry(name="etc", type="reg"), "twice"),
        (entry(name="etc/link/x"), "no directory"),
        (entry(name="a" * 256), "255 bytes"),
        (entry(name="a/" * 1500), "2048"),
        (entry(name="a\0b"), "NUL"),
        (entry(name="a\ufffdb"), "not UTF-8"),
        (entry(name="x/.wh.."), "whiteout of no name"),
        (entry(type="socket"), "type 'socket'"),
        (entry(type="hardlink", linkName="etc"), "no file"),
        (entry(type="hardlink", linkName="nowhere"), "no file"),
        (entry(type="hardlink", linkName="../../etc/shadow"), "'..'"),
        (entry(type="symlink", linkName=""), "to nothing"),
        (entry(type="symlink", linkName="a" * 5000), "too long"),
        (entry(type="char", devMajor=1 << 20), "device"),
        (entry(uid=1 << 33), "owner"),
        (entry(uid=-1), "owner"),
        (entry(xattrs={"user." + "x" * 300: ""}), "attributes"),
        (entry(modtime="tomorrow"), "its time"),
        (entry(size=1 << 40, chunkSize=1 << 40), "larger than the settings"),
        (entry(size=-5), "larger than the settings"),
        (entry(size=1 << 25), "cannot be"),
        (entry(size=5, offset=1), "no SHA-256"),
        (entry(size=5, offset=1 << 50, chunkDigest="sha256:" + "0" * 64), "outside"),
        (entry(size=5, innerOffset=1 << 40, chunkDigest="sha256:" + "0" * 64), "outside"),
        (entry(type="chunk", name="y"), "chunk of no file"),
        (first("big", size=1 << 19), "cannot be"),
        (first("big", size=(1 << 20) + 1), "end at byte"),
        (lambda table: table.update(version=2), "version"),
        (lambda table: table.update(entries=[{"name": 5}]), "malformed"),
        (lambda table: table.update(entries=[[[[]]]] * 10), "malformed"),
        (lambda table: table.update(entries=[{}] * 1001), "more than 1000"),
        (
            lambda table: table.update(entries=[{"name": "x", "more": json.loads("[" * 500 + "]" * 500)}]),
            "type ''",
        ),
    ],
)
def test_a_table_that_lies_is_refused(lie: Lie, says: str) -> None:
    with pytest.raises(BadEntryError, match=says):
        read(good(), chunk_bytes=300_000, lie=lie)


def test_a_table_that_is_too_long_is_refused() -> None:
    bounds = Bounds(max_entries=1000, max_bytes=1 << 30, max_toc_bytes=3000)
    with pytest.raises(BadTocError, match="more than 3000"):
        read([file(f"file-{n}", b"") for n in range(100)], bounds)


def test_a_gzip_bomb_of_a_table_ends_at_its_bound() -> None:
    head = tarfile.TarInfo(toc.NAME)
    head.size = 100
    bomb = gzip.compress(head.tobuf() + bytes(50 << 20))
    with pytest.raises(BadTocError, match="has the digest"):
        toc.read(bomb, "sha256:" + "0" * 64, Bounds(10, 10, max_toc_bytes=1 << 16))
