"""The nursery and its helpers: what they may do, how they die, and helpers that were taken over."""

import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from common.digest import Digest
from common.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    SlipwayError,
    UnavailableError,
)
from common.sys import linux
from common.sys.mountinfo import mount_points
from common.sys.mounts import unmount_below
from services.snapshotd.tests.taken_helper import FORBIDDEN, NONSENSE
from services.snapshotd.tests.test_snapshotd_layers import BASE, digest_of, tar
from snapshotd.adapters.helper import HelperUnpacker
from snapshotd.adapters.nursery import ENTRY, Nursery
from snapshotd.diff.answer import NonsenseError, read
from snapshotd.ports import UnpackJob
from tests.support.eventually import eventually

pytestmark = [pytest.mark.root, pytest.mark.anyio]
CONTENT = tar(BASE)


@asynccontextmanager
async def nursery(deed: str = "") -> AsyncIterator[Nursery]:
    """A nursery, the real one unless a deed of taken_helper is named."""
    here = str(Path(__file__).parent)
    entry = f"sys.path.insert(0, {here!r}); import taken_helper; taken_helper.main({deed!r})"
    made = Nursery(Path("/run/test"), entry if deed else ENTRY)
    async with anyio.create_task_group() as group:
        group.start_soon(made.run)
        await until(lambda: made.pid)
        yield made
        group.cancel_scope.cancel()


def job(directory: Path) -> UnpackJob:
    (directory / "blob").write_bytes(CONTENT)
    target = directory / "layers" / "one" / "fs"
    target.mkdir(parents=True)
    return UnpackJob(
        name="layer",
        blob=str(directory / "blob"),
        target=target,
        media_type="",
        diff_id=Digest.parse(digest_of(CONTENT)),
        max_entries=100,
        max_bytes=1 << 20,
    )


def helpers(nursery: Nursery) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{nursery.pid}/task/{nursery.pid}/children").read_text().split()]


async def until(condition: Callable[[], object]) -> None:
    await anyio.to_thread.run_sync(lambda: eventually(condition, what="the helper"))


async def test_a_layer_is_unpacked_and_no_process_stays(tmp_path: Path) -> None:
    async with nursery() as made:
        unpacked = await HelperUnpacker(made, 30).unpack(job(tmp_path))
        assert (unpacked.inodes, unpacked.compression) == (len(BASE), "none")
        assert (tmp_path / "layers/one/fs/etc/a").read_bytes() == b"a0"
        assert helpers(made) == []
        pid = made.pid
    assert not Path(f"/proc/{pid}").exists()


async def test_helpers_work_side_by_side(tmp_path: Path) -> None:
    async with nursery() as made, anyio.create_task_group() as group:
        unpacker = HelperUnpacker(made, 30)
        for number in range(8):
            (tmp_path / str(number)).mkdir()
            group.start_soon(unpacker.unpack, job(tmp_path / str(number)))
    assert len(list(tmp_path.glob("*/layers/one/fs/etc/d/y"))) == 8


@pytest.mark.parametrize("name", NONSENSE)
async def test_nonsense_is_no_answer(name: str, tmp_path: Path) -> None:
    with pytest.raises(NonsenseError):
        read(NONSENSE[name])
    if name in ("half an answer", "deep lists", "a path up"):  # all go the same way
        async with nursery(name) as made:
            with pytest.raises(InternalError, match="layer: its helper answered nonsense"):
                await HelperUnpacker(made, 30).unpack(job(tmp_path))
            assert helpers(made) == []


async def fails(deed: str, directory: Path, expected: type[SlipwayError]) -> str:
    """What is said about a helper that does this; the nursery has to live on."""
    async with nursery(deed) as made:
        with pytest.raises(expected) as caught:
            await HelperUnpacker(made, 30).unpack(job(directory))
        assert helpers(made) == []
        assert Path(f"/proc/{made.pid}").exists()
    return caught.value.message


async def test_a_helper_that_dies_is_an_error_that_says_how(tmp_path: Path) -> None:
    assert await fails("die", tmp_path, InternalError) == "layer: its helper ended with status 7"


async def test_an_answer_without_end_is_cut(tmp_path: Path) -> None:
    assert "nonsense" in await fails("flood", tmp_path, InternalError)


async def test_what_it_says_cannot_speak_to_a_terminal(tmp_path: Path) -> None:
    assert await fails("terminal", tmp_path, InvalidArgumentError) == "layer: ?[2J?root#"


async def test_what_unpacking_never_needs_is_refused_by_the_kernel(tmp_path: Path) -> None:
    said = await fails("reach out", tmp_path, InternalError)
    assert said == f"layer: {len(FORBIDDEN)} asked, allowed: []"


async def test_no_way_leads_up_from_its_root(tmp_path: Path) -> None:
    said = (await fails("look around", tmp_path, InternalError)).removeprefix("layer: ")
    assert json.loads(said) == {"/": [], "..": [], "../../..": []}


async def test_its_memory_is_bounded(tmp_path: Path) -> None:
    assert await fails("memory", tmp_path, InternalError) == "layer: bounded"


async def _expect(unpacker: HelperUnpacker, job: UnpackJob, error: type[SlipwayError], text: str) -> None:
    with pytest.raises(error, match=text):
        await unpacker.unpack(job)


async def test_a_helper_has_only_what_it_needs(tmp_path: Path) -> None:
    async with nursery("wait") as made, anyio.create_task_group() as group:
        unpacker = HelperUnpacker(made, 1000)
        group.start_soon(_expect, unpacker, job(tmp_path), InternalError, "ended with status -9")
        await until(lambda: helpers(made))
        (pid,) = helpers(made)
        await until(lambda: "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text())
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert status["NSpid"].split()[-1] == "1"
        for kind in ("CapEff", "CapPrm", "CapBnd"):
            assert int(status[kind], 16) & ~0x8000001B == 0, kind
        assert (status["CapInh"], status["NoNewPrivs"]) == ("0" * 16, "1")
        for kind, other in (("mnt", "self"), ("net", "self"), ("ipc", "self"), ("pid", made.pid)):
            theirs, others = (os.stat(f"/proc/{each}/ns/{kind}").st_ino for each in (pid, other))
            assert theirs != others, kind
        limits = Path(f"/proc/{pid}/limits").read_text()
        bounds = {
            "Max open files": 64,
            "Max core file size": 0,
            "Max file size": 1 << 20,
            "Max address space": 1 << 30,
            "Max data size": 160 << 20,
        }
        for name, value in bounds.items():
            (line,) = [line for line in limits.splitlines() if line.startswith(name)]
            assert line.removeprefix(name).split()[:2] == [str(value)] * 2, name
        assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
        mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        assert len(mounts) <= 1, mounts
        os.kill(pid, signal.SIGKILL)


async def test_a_helper_has_a_deadline(tmp_path: Path) -> None:
    async with nursery("wait") as made:
        with pytest.raises(DeadlineExceededError, match=r"longer than 0\.5 s"):
            await HelperUnpacker(made, 0.5).unpack(job(tmp_path))
        assert helpers(made) == []


async def test_a_helper_goes_with_whoever_asked(tmp_path: Path) -> None:
    async with nursery("wait") as made:
        async with anyio.create_task_group() as group:
            group.start_soon(HelperUnpacker(made, 1000).unpack, job(tmp_path))
            await until(lambda: helpers(made))
            group.cancel_scope.cancel()
        assert helpers(made) == []


async def test_a_nursery_that_dies_takes_its_helpers_along_and_comes_back(tmp_path: Path) -> None:
    async with nursery("wait") as made:
        async with anyio.create_task_group() as group:
            unpacker = HelperUnpacker(made, 1000)
            group.start_soon(_expect, unpacker, job(tmp_path), UnavailableError, "ended with its parent")
            await until(lambda: helpers(made))
            (helper,), first = helpers(made), made.pid
            os.kill(first, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{helper}").exists())
        await until(lambda: made.pid != first and Path(f"/proc/{made.pid}").exists())


async def test_a_nursery_that_does_not_start_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapshotd.adapters.nursery._START_S", 0.5)
    made = Nursery(Path("/run/test"), "raise SystemExit(3)")
    async with anyio.create_task_group() as group:
        group.start_soon(made.run)
        with pytest.raises(UnavailableError, match="its parent does not start"):
            await HelperUnpacker(made, 30).unpack(job(tmp_path))
        group.cancel_scope.cancel()


async def test_a_mount_below_a_later_one_keeps_no_nursery_from_starting(tmp_path: Path) -> None:
    """What `ip netns` leaves on a machine whose /run is shared: the second mount is out of reach of its own path."""
    own = tmp_path / "netns"
    linux.mount("none", str(tmp_path), "tmpfs", 0)
    try:
        linux.mount("none", str(tmp_path), None, linux.MS_SHARED)
        (own / "one").mkdir(parents=True)
        linux.mount(str(own), str(own), None, linux.MS_BIND)
        linux.mount("none", str(own / "one"), "tmpfs", 0)
        assert [point for point, _ in mount_points()].count(str(own / "one")) == 2
        async with nursery() as made:
            table = Path(f"/proc/{made.pid}/mountinfo").read_text().splitlines()
            assert [line.split()[4] for line in table] == ["/"]
    finally:
        unmount_below(tmp_path)
    assert not [point for point, _ in mount_points() if point.startswith(str(tmp_path))]
