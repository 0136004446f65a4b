"""Tars that somebody made up, unpacked by real helpers: a tree or a refusal, and nothing outside of the layer's directory."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.digest import Digest
from common.errors import DataLossError, InvalidArgumentError
from services.snapshotd.tests.corpus import BLOCK, END, header
from services.snapshotd.tests.test_snapshotd_layers import E, tar
from snapshotd.adapters.helper import HelperUnpacker
from snapshotd.adapters.nursery import Nursery
from snapshotd.diff.answer import Unpacked
from snapshotd.diff.finish import finish
from snapshotd.ports import UnpackJob

pytestmark = pytest.mark.root
MAX_ENTRIES, MAX_BYTES = 50, 1 << 20
parts = st.sampled_from(["a", "b", "..", ".", "", ".wh.a", ".wh..wh..opq", ".wh.", "é", "a" * 255])
names = st.lists(parts, min_size=1, max_size=4).map("/".join) | st.text(min_size=1, max_size=20).filter(
    lambda text: "\0" not in text
)
numbers = st.sampled_from([0, 1, 0o4755, 1000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 40])
records = st.dictionaries(
    st.sampled_from(
        ["path", "linkpath", "size", "uid", "mtime", "hdrcharset", "GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.realsize",
         "SCHILY.xattr.user.a", "SCHILY.xattr.trusted.overlay.opaque", "SCHILY.xattr.security.capability", "LIBARCHIVE.xattr.user.b",
         "SCHILY.acl.access", "SCHILY.fflags", "SCHILY.dev"]
    ),
    st.sampled_from(["a", "../../x", "-1", "1", "99999999999999999999", "y", "1e400", "0,1,2", "BINARY", "/etc"]) | st.text(max_size=9).filter(
        lambda text: "\0" not in text
    ),
    max_size=3,
)  # fmt: skip
entries = st.builds(
    E,
    kind=st.sampled_from("fffddllhhcbp"),
    name=names,
    target=names,
    mode=st.integers(0, 0o7777),
    uid=numbers,
    gid=numbers,
    mtime=st.sampled_from([0, 1, 1 << 33]),
    device=st.tuples(st.sampled_from([0, 1, 5000]), st.sampled_from([0, 3])),
    pax=records,
)
fields = st.tuples(st.integers(0, BLOCK - 1), st.binary(min_size=1, max_size=12))


class Bench:
    """Unpacks in a directory beside a canary."""

    def __init__(self, portal: BlockingPortal, unpacker: HelperUnpacker) -> None:
        self._portal, self._unpacker = portal, unpacker

    def unpack(self, content: bytes) -> Unpacked | None:
        """None for a refusal; any other failure is one."""
        directory = Path(tempfile.mkdtemp(prefix="slipway-fuzz-", dir="/var/tmp"))
        try:
            target = directory / "layers/one/fs"
            target.mkdir(parents=True)
            (directory / "blob").write_bytes(content)
            job = UnpackJob(
                name="layer",
                blob=str(directory / "blob"),
                target=target,
                media_type="",
                diff_id=Digest("sha256", hashlib.sha256(content).hexdigest()),
                max_entries=MAX_ENTRIES,
                max_bytes=MAX_BYTES,
            )
            try:
                unpacked: Unpacked = self._portal.call(self._unpacker.unpack, job)
                finish(target, unpacked)
            except (DataLossError, InvalidArgumentError) as exc:
                assert "\n" not in exc.message
                return None
            finally:
                assert sorted(p.name for p in directory.iterdir()) == ["blob", "layers"]
                assert [p.name for p in (directory / "layers").iterdir()] == ["one"]
                assert [p.name for p in (directory / "layers/one").iterdir()] == ["fs"]
            count = sum(len(dirs) + len(files) for _, dirs, files in os.walk(os.fsencode(target)))
            assert count <= MAX_ENTRIES
            return unpacked
        finally:
            shutil.rmtree(os.fsencode(directory))


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    nursery = Nursery(Path("/run/test"))
    with start_blocking_portal() as portal:
        scope: anyio.CancelScope | None = None

        async def run() -> None:
            nonlocal scope
            with anyio.CancelScope() as scope:
                await nursery.run()

        running = portal.start_task_soon(run)
        yield Bench(portal, HelperUnpacker(nursery, 60))
        assert scope
        portal.call(scope.cancel)
        running.result(30)


def tarred(made: list[E]) -> bytes:
    return tar([entry for entry in made if 0 <= entry.uid < 1 << 60])


@settings(max_examples=60)
@given(made=st.lists(entries, max_size=8))
@example(made=[E("c", "device of 2242", mtime=1 << 33)])
def test_any_entries_become_a_tree_or_are_refused(bench: Bench, made: list[E]) -> None:
    with suppress(ValueError):  # what tarfile cannot write
        content = tarred(made)
        bench.unpack(content)


@settings(max_examples=60)
@given(
    kinds=st.lists(
        st.tuples(
            st.sampled_from(b"0123456789xgLKSVMDNA\xff"), st.lists(fields, max_size=3), st.integers(0, 2)
        ),
        max_size=5,
    ),
    right=st.booleans(),
)
def test_any_headers_become_a_tree_or_are_refused(
    bench: Bench, kinds: list[tuple[int, list[tuple[int, bytes]], int]], right: bool
) -> None:
    blocks = []
    for kind, changes, bodies in kinds:
        raw = bytearray(header(b"a", size=b"%011o\0" % (bodies * BLOCK), kind=bytes([kind])))
        for at, patch in changes:
            raw[at : at + len(patch)] = patch
        raw = raw[:BLOCK]
        if right:
            raw[148:156] = b" " * 8
            raw[148:156] = b"%06o\0 " % sum(raw)
        blocks += [bytes(raw), b"12 path=aaa\n".ljust(BLOCK, b"\0") * bodies]
    bench.unpack(b"".join(blocks) + END)


@settings(max_examples=20)
@given(content=st.binary(max_size=3000))
def test_any_bytes_become_a_tree_or_are_refused(bench: Bench, content: bytes) -> None:
    for head in (b"", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\3\4", b"\x50\x2a\x4d\x18"):
        bench.unpack(head + content)
