"""The way back, signals, filters and the event feed."""

import asyncio
import gc
import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import anyio
import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.clients.shimd import ShimdClient
from common.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError
from common.records import RecordStore
from common.records.redis import connect
from runtimed import processes, selection, signals
from runtimed.adapters.shims import ProcessShims
from runtimed.feed import Feed
from runtimed.machine import container
from runtimed.reconcile import _without_record
from runtimed.record import ContainerRecord, SandboxRecord
from runtimed.transitions import Transitions
from runtimed.use.ground import pause
from runtimed.use.parts import Parts
from runtimed.use.together import together
from runtimed.use.undo import Undo
from tests.support.descriptors import none_left
from tests.support.eventually import until


@pytest.mark.anyio
async def test_the_way_back_goes_on_after_a_failure_and_tells_what_is_left() -> None:
    undone = []

    async def fine() -> None:
        undone.append("fine")

    async def broken() -> None:
        raise NotFoundError("nothing there")

    undo = Undo(5)
    undo.push("first", fine)
    undo.push("second", broken)
    assert await undo.run() == ["second (nothing there)"]
    assert undone == ["fine"]


@pytest.mark.anyio
async def test_the_way_back_is_bounded() -> None:
    undo = Undo(0.01)
    undo.push("stuck", anyio.sleep_forever)
    assert await undo.run() == ["stuck (not within 0 s)"]


@pytest.mark.anyio
async def test_steps_at_once_all_end_before_the_failure_is_raised() -> None:
    ended = []

    async def fails() -> None:
        raise NotFoundError("a")

    async def ends() -> None:
        await anyio.lowlevel.checkpoint()
        ended.append(1)

    with pytest.raises(NotFoundError):
        await together(fails, ends)
    assert ended == [1]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("SIGTERM", 15),
        ("term", 15),
        ("9", 9),
        ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63),
        ("SIGCLD", 17),
        ("SIGIOT", 6),
    ],
)
def test_signal_names_of_images(name: str, number: int) -> None:
    assert signals.number(name) == number


@pytest.mark.parametrize(
    "name", ["", "SIGNOPE", "0", "32", "33", "65", "9" * 5000, "RTMIN+99", "RTMIN+" + "9" * 5000, "-9"]
)
def test_signal_names_that_mean_nothing(name: str) -> None:
    assert signals.number(name) is None


@pytest.mark.parametrize("value", [v for v in cri.Signal.values() if v])
def test_every_signal_of_cri_has_a_number_and_comes_back(value: int) -> None:
    number = signals.from_cri(value)
    assert number is not None
    assert signals.from_cri(signals.to_cri(number)) == number


@pytest.mark.parametrize("value", [-1, 66, 9999])
def test_a_signal_that_cri_does_not_have_is_refused(value: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"stop_signal: {value}"):
        signals.from_cri(value)


def test_labels_must_all_fit() -> None:
    records = [SandboxRecord(id=n, key=n, labels={"a": "1", "b": n}) for n in "xy"]
    assert [r.id for r in selection.with_labels(records, {"a": "1", "b": "y"})] == ["y"]


def test_this_process_is_alive_and_another_start_time_is_not() -> None:
    ticks = processes.started_ticks(os.getpid())
    assert processes.alive(os.getpid(), ticks)
    assert not processes.alive(os.getpid(), ticks + 1)


@pytest.mark.anyio
async def test_a_pause_that_cannot_be_watched_ends_nothing() -> None:
    record = SandboxRecord(id="s", key="k", pause_pid=os.getpid())
    async with anyio.create_task_group() as group:
        with none_left():
            pause.watch(cast("Parts", SimpleNamespace(group=group)), record)
            await anyio.wait_all_tasks_blocked()


@pytest.mark.anyio
async def test_calls_for_records_that_are_gone_leave_no_locks() -> None:
    def locks() -> int:
        gc.collect()
        return sum(isinstance(each, anyio.Lock) for each in gc.get_objects())

    redis = await connect("unix:///nowhere")  # nobody asks it
    store = RecordStore(redis, ContainerRecord, node="n", owner="runtimed", kind="container")
    containers = Transitions(store, container.decide, "container")
    before = locks()
    for number in range(50):
        name = f"gone{number}"
        with pytest.raises(NotFoundError):
            await containers.apply(name, container.RemoveAsked(cause="t"))
        with pytest.raises(NotFoundError):
            await containers.amend(name)
        await containers.forget(name)
        await store.delete(name)
    assert locks() <= before + 1
    await redis.aclose()


@pytest.mark.anyio
async def test_first_calls_at_once_to_a_shim_share_a_connection(tmp_path: Path) -> None:
    begun, ended = [], []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.append(1)
        while await reader.read(4096):
            pass
        ended.append(1)
        writer.close()

    path = str(tmp_path / "shim.sock")
    shimd = ShimdClient(str(tmp_path / "shimd.sock"))
    shims = ProcessShims(shimd)
    async with await asyncio.start_unix_server(hear, path), anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(shims.reopen_log, path)
        await until(lambda: len(ended) == 2, "all connections but one to end")
        assert len(begun) == 3
        group.cancel_scope.cancel()
    await shimd.close()


@pytest.mark.anyio
async def test_a_slow_listener_is_cut_off_and_the_others_go_on() -> None:
    feed = Feed(2)
    heard = []
    with feed.listen() as slow, feed.listen() as quick:
        async with anyio.create_task_group() as group:

            async def follow() -> None:
                async for event in quick:
                    heard.append(event.container_id)
                    if len(heard) == 4:
                        return

            group.start_soon(follow)
            for name in "abcd":
                feed.publish(cri.ContainerEventResponse(container_id=name))
                await anyio.wait_all_tasks_blocked()
        assert heard == list("abcd")
        with pytest.raises(ResourceExhaustedError, match="behind"):
            heard += [event.container_id async for event in slow]
    assert not feed.heard


def test_a_directory_that_goes_while_it_is_looked_at_ends_no_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").symlink_to("nowhere")
    monkeypatch.setattr(Path, "is_dir", lambda _: True)  # it still was when that was asked
    (tmp_path / "left").mkdir()
    (tmp_path / "recorded").mkdir()
    (tmp_path / "recorded" / "record.msgpack").touch()
    assert _without_record(tmp_path) == {"left"}
