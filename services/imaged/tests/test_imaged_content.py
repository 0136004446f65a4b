import errno
import os
import stat
import subprocess
import threading
from pathlib import Path

import anyio
import pytest

from common.digest import Digest
from common.errors import DataLossError, NotFoundError, SlipwayError
from imaged.adapters.content_local import LocalContent
from imaged.manifest import Descriptor
from services.imaged.tests.conftest import Tools
from tests.support.eventually import until
from tests.support.pace import patience

pytestmark = pytest.mark.anyio
BODY = b"blob of some bytes" * 1000


def wanted(tools: Tools) -> Descriptor:
    return Descriptor(tools.sha256(BODY), len(BODY))


async def test_blob_is_kept_whole_and_private(content: LocalContent, tools: Tools) -> None:
    digest = Digest.parse(tools.sha256(BODY))
    await content.put(digest, BODY)
    assert await content.read(str(digest)) == BODY
    assert await content.usage() == (len(BODY), 1)
    assert stat.S_IMODE(Path(content.path(str(digest))).stat().st_mode) == 0o600
    again = LocalContent(content.blobs.parent)
    await again.load()
    assert again.has(str(digest))
    await again.delete([str(digest)])
    await again.delete([str(digest)])
    assert await again.usage() == (0, 0)
    with pytest.raises(NotFoundError):
        await again.read(str(digest))


async def test_a_blob_that_is_brought_while_it_goes_is_here(
    content: LocalContent, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = Digest.parse(tools.sha256(BODY))
    await content.put(digest, BODY)
    going, go, brought = threading.Event(), threading.Event(), anyio.Event()
    unlink = Path.unlink

    def late(path: Path, *, missing_ok: bool = False) -> None:
        going.set()
        assert go.wait(patience(20))
        unlink(path, missing_ok=missing_ok)

    async def bring() -> None:
        await content.put(digest, BODY)
        brought.set()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", late)
        async with anyio.create_task_group() as group:
            group.start_soon(content.delete, [str(digest)])
            await until(going.is_set, "the blob to go")
            group.start_soon(bring)
            lock = content._locks[str(digest)]
            await until(lambda: brought.is_set() or lock.statistics().tasks_waiting, "who brings it")
            go.set()
    assert content.has(str(digest))
    assert await content.read(str(digest)) == BODY


async def test_a_blob_that_cannot_be_removed_is_not_forgotten(
    content: LocalContent, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = [b"1", b"22", b"333"]
    digests = [tools.sha256(body) for body in bodies]
    for digest, body in zip(digests, bodies, strict=True):
        await content.put(Digest.parse(digest), body)
    stuck, unlink = content.path(digests[1]), Path.unlink

    def unwilling(path: Path, *, missing_ok: bool = False) -> None:
        if str(path) == stuck:
            raise OSError(errno.EIO, "input/output error", stuck)
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unwilling)
        with pytest.raises(SlipwayError, match="input/output error"):
            await content.delete(digests)
    assert (content.all(), content.used_bytes) == ([digests[1]], 2)
    await content.delete(digests)
    assert (content.all(), content.used_bytes) == ([], 0)


async def test_what_somebody_is_at_is_not_removed(content: LocalContent, tools: Tools) -> None:
    await content.put(Digest.parse(tools.sha256(BODY)), BODY)
    async with content.ingest(wanted(tools)):
        await content.delete([tools.sha256(BODY)])
        assert content.has(tools.sha256(BODY))
    await content.delete([tools.sha256(BODY)])
    assert not content.has(tools.sha256(BODY))


async def test_what_has_come_is_counted_as_the_disk_has_it(content: LocalContent, tools: Tools) -> None:
    """Whole blobs, one of which a piece in the middle has come, and an archive on its way in."""
    await content.put(Digest.parse(tools.sha256(b"x")), b"x")
    async with content.ingest(Descriptor(f"sha256:{1:064}", 64 << 20)) as ingest:
        ingest.partial.write(os.urandom(1 << 20), 32 << 20)
        (content.ingests / "load-1").mkdir()
        (content.ingests / "load-1/0").write_bytes(os.urandom(2 << 20))
        used_bytes, used_files = await content.usage()
        du = [
            subprocess.check_output(["du", "-s", how, content.ingests], text=True)
            for how in ("-B1", "--inodes")
        ]
        on_disk, inodes = (int(said.split()[0]) for said in du)
        assert 3 << 20 <= used_bytes <= 1 + on_disk <= used_bytes + (64 << 10)
        assert used_files == 1 + inodes - 2  # du counts two directories
    assert (await content.usage())[0] == used_bytes


async def test_unfinished_blob_goes_on_after_a_restart(content: LocalContent, tools: Tools) -> None:
    async with content.ingest(wanted(tools)) as ingest:
        ingest.partial.write(BODY[:5000], 0)
    after = LocalContent(content.blobs.parent)
    await after.load()
    async with after.ingest(wanted(tools)) as ingest:
        assert ingest.partial.missing() == [(5000, len(BODY))]
        ingest.partial.write(BODY[5000:], 5000)
        ingest.partial.verify()
        await ingest.sync()
        await ingest.commit()
    assert await after.read(tools.sha256(BODY)) == BODY


async def test_wrong_or_surplus_bytes_are_refused(content: LocalContent, tools: Tools) -> None:
    async with content.ingest(wanted(tools)) as ingest:
        ingest.partial.write(b"x" * len(BODY), 0)
        with pytest.raises(DataLossError, match="what came has"):
            ingest.partial.verify()
        assert ingest.partial.fetched_bytes == 0
        with pytest.raises(DataLossError, match="more than"):
            ingest.partial.write(BODY + b"!", 0)
        ingest.partial.write(BODY[:1], 0)
        with pytest.raises(DataLossError, match="1 bytes came"):
            ingest.partial.verify()


async def test_one_blob_is_ingested_by_one_at_a_time(content: LocalContent, tools: Tools) -> None:
    seen = []

    async def second() -> None:
        async with content.ingest(wanted(tools)) as ingest:
            seen.append(ingest.committed)

    async with anyio.create_task_group() as group, content.ingest(wanted(tools)) as ingest:
        group.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        ingest.partial.write(BODY, 0)
        await ingest.commit()
    assert seen == [True]


async def test_sweep_takes_what_is_old_and_unneeded(content: LocalContent, tools: Tools) -> None:
    async with content.ingest(wanted(tools)) as ingest:
        ingest.partial.write(b"1", 0)
        assert await content.sweep(set, -1) == {}
    for body in (b"kept", b"stale"):
        await content.put(Digest.parse(tools.sha256(body)), body)
    needed = {tools.sha256(b"kept")}
    assert await content.sweep(lambda: needed, 3600) == {}
    stale = {tools.sha256(b"stale"), tools.sha256(BODY)}
    assert set(await content.sweep(lambda: needed, -1, dry_run=True)) == stale
    assert len(list((content.blobs.parent / "ingest").iterdir())) == 1
    assert set(await content.sweep(lambda: needed, -1)) == stale
    assert content.all() == [tools.sha256(b"kept")]
    assert not list(Path(content.blobs.parent / "ingest").iterdir())


async def test_a_blob_that_somebody_else_removed_is_forgotten_and_brought_again(
    content: LocalContent, tools: Tools
) -> None:
    digest = tools.sha256(BODY)
    for ask in (content.read, None):
        await content.put(Digest.parse(digest), BODY)
        assert content.used_bytes == len(BODY)
        Path(content.path(digest)).unlink()
        if ask:
            with pytest.raises(NotFoundError):
                await ask(digest)
            assert (content.has(digest), content.used_bytes) == (False, 0)
    await content.put(Digest.parse(digest), BODY)
    assert (await content.read(digest), content.used_bytes) == (BODY, len(BODY))
