"""Records on real Redis, with their copies on disk."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import msgspec
import pytest

from common.errors import AbortedError, AlreadyExistsError, NotFoundError, UnavailableError
from common.events.schema import NodeRepaired, SandboxReady, SandboxRemoved, envelope_decoder
from common.records import RecordStore
from common.records.keys import index_key, outbox_key, record_key
from common.records.redis import ANSWER_S, connect, members
from libs.common.tests.things import Thing, outbox_fields, store_at
from tests.support.brokers import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


async def test_a_change_and_its_event_are_written_together(redis: RedisServer) -> None:
    store = await store_at(redis)
    await store.create(Thing(id="a", size=1), SandboxReady(id="a"))
    changed = await store.update(
        "a", lambda old: msgspec.structs.replace(old, size=2), lambda t: SandboxReady(id=t.id)
    )
    assert (changed.revision, changed.size) == (2, 2)
    client = await connect(redis.url)
    assert await client.xlen(outbox_key("n1", "runtimed")) == 2
    again = await store_at(redis)
    assert again.get("a") == changed


async def test_changes_with_events_are_told_once_visible(redis: RedisServer) -> None:
    store = await store_at(redis)
    told = []
    store.on_change(
        lambda record, facts: told.append((record.size, [f.verb for f in facts], store.find("a")))
    )
    made = await store.create(Thing(id="a", size=1), SandboxReady(id="a"))
    grown = await store.update("a", lambda old: msgspec.structs.replace(old, size=2), SandboxReady(id="a"))
    quiet = await store.update("a", lambda old: msgspec.structs.replace(old, size=3))
    await store.delete("a", SandboxRemoved(id="a"))
    assert quiet.size == 3
    assert told == [(1, ["ready"], made), (2, ["ready"], grown), (3, ["removed"], None)]


async def test_creating_twice_is_refused_and_leaves_one_event(redis: RedisServer) -> None:
    store = await store_at(redis)
    await store.create(Thing(id="a"), SandboxReady(id="a"))
    with pytest.raises(AlreadyExistsError, match="'a'"):
        await store.create(Thing(id="a"), SandboxReady(id="a"))
    assert await (await connect(redis.url)).xlen(outbox_key("n1", "runtimed")) == 1


async def test_changes_asked_for_at_once_go_together_and_each_has_its_own_answer(redis: RedisServer) -> None:
    store, other = await store_at(redis), await store_at(redis)
    await store.create(Thing(id="contested"))
    await other.load()
    for size in (1, 2):
        await other.update("contested", partial(_sized, size=size))
    client = await connect(redis.url)
    before = (await client.info("stats"))["total_connections_received"]
    await client.script_flush()  # as a Redis that was started again
    refused = []

    async def contest() -> None:
        with pytest.raises(AbortedError, match="'contested': another writer changed it") as told:
            await store.update("contested", partial(_sized, size=7))
        refused.append(told)

    async with anyio.create_task_group() as group:
        for number in range(60):
            group.start_soon(store.create, Thing(id=f"{number}"), SandboxReady(id=f"{number}"))
        group.start_soon(contest)
    assert refused
    assert {thing.id for thing in (await store_at(redis)).all()} == {f"{n}" for n in range(60)} | {
        "contested"
    }
    assert await client.xlen(outbox_key("n1", "runtimed")) == 60
    assert (await client.info("stats"))["total_connections_received"] - before < 10, "a connection for each"
    assert "cmdstat_script|exists" not in await client.info("commandstats"), "a trip for nothing"


def _sized(thing: Thing, size: int) -> Thing:
    return msgspec.structs.replace(thing, size=size)


async def test_an_unknown_record_is_not_found(redis: RedisServer) -> None:
    store = await store_at(redis)
    with pytest.raises(NotFoundError, match="thing 'b'"):
        store.get("b")
    await store.delete("b")


async def test_redis_away_changes_nothing_and_says_unavailable(redis: RedisServer) -> None:
    store = await store_at(redis)
    await store.create(Thing(id="a", size=1))
    redis.kill()
    with pytest.raises(UnavailableError, match="Redis"):
        await store.update("a", lambda old: msgspec.structs.replace(old, size=2))
    assert store.get("a").size == 1
    redis.start()
    assert (await store.update("a", lambda old: msgspec.structs.replace(old, size=3))).size == 3


@pytest.mark.timeout(60)
async def test_a_deletion_that_redis_did_not_take_leaves_the_copy(redis: RedisServer, tmp_path: Path) -> None:
    store = await store_at(redis, tmp_path / "copies")
    await store.create(Thing(id="a"))
    redis.kill()
    with pytest.raises(UnavailableError):
        await store.delete("a")
    assert (tmp_path / "copies" / "a" / "record.msgpack").exists()
    redis.start()
    await store.delete("a")
    assert not list((tmp_path / "copies").iterdir())


async def test_a_frozen_redis_is_unavailable_in_time_and_does_nothing_of_it_later(redis: RedisServer) -> None:
    store = await store_at(redis)
    await store.create(Thing(id="a", size=1))
    with redis.frozen(), anyio.fail_after(ANSWER_S + 2):
        async with anyio.create_task_group() as group:
            group.start_soon(_refused, store.update("a", lambda old: msgspec.structs.replace(old, size=2)))
            group.start_soon(_refused, store.create(Thing(id="b"), SandboxReady(id="b")))
    assert await (await connect(redis.url)).xlen(outbox_key("n1", "runtimed")) == 0
    assert [(t.id, t.size) for t in (await store_at(redis)).all()] == [("a", 1)]
    assert (await store.update("a", lambda old: msgspec.structs.replace(old, size=3))).revision == 2


async def _refused(work: Awaitable[object]) -> None:
    with pytest.raises(UnavailableError, match="Redis"):
        await work


@pytest.mark.timeout(60)
@pytest.mark.parametrize("change", ["create", "update", "delete"])
async def test_a_change_whose_caller_leaves_is_done_or_not_done_everywhere(
    redis: RedisServer, tmp_path: Path, change: str
) -> None:
    """Once Redis was asked, nobody knows whether it is done: so it is done to its end."""
    store = await store_at(redis, tmp_path / "copies")
    await store.create(Thing(id="here", size=1))
    changes = {
        "create": lambda: store.create(Thing(id="new", size=2)),
        "update": lambda: store.update("here", lambda old: msgspec.structs.replace(old, size=2)),
        "delete": lambda: store.delete("here"),
    }
    async with anyio.create_task_group() as group:
        with redis.frozen():
            caller = anyio.CancelScope()
            group.start_soon(_within, caller, changes[change])
            await anyio.wait_all_tasks_blocked()
            caller.cancel()
            await anyio.wait_all_tasks_blocked()
    kept = await connect(redis.url)
    ids = {one.decode() for one in await members(kept, index_key("n1", "runtimed", "thing"))}
    assert {record.id for record in store.all()} == ids
    assert {path.name for path in (tmp_path / "copies").iterdir()} == ids
    held = {record.id: record.size for record in store.all()}
    assert {record.id: record.size for record in (await store_at(redis)).all()} == held


async def _within(scope: anyio.CancelScope, work: Callable[[], Awaitable[object]]) -> None:
    with scope:
        await work()


async def test_a_copy_that_cannot_be_written_undoes_nothing_and_is_written_later(
    redis: RedisServer, tmp_path: Path
) -> None:
    copies = tmp_path / "copies"
    store = await store_at(redis, copies)
    await store.create(Thing(id="a", size=1))
    copies.rename(tmp_path / "away")
    copies.touch()  # no directory can be made below it
    assert (await store.update("a", lambda old: msgspec.structs.replace(old, size=2))).size == 2
    assert (await store.create(Thing(id="b", size=3))).size == 3
    assert {r.id: r.size for r in (await store_at(redis)).all()} == {"a": 2, "b": 3}
    copies.unlink()
    await store.copy_again()
    await (await connect(redis.url)).flushall()
    assert {r.id: r.size for r in (await store_at(redis, copies)).all()} == {"a": 2, "b": 3}


async def test_a_copy_that_was_left_behind_by_a_change_is_made_at_the_next_start(
    redis: RedisServer, tmp_path: Path
) -> None:
    store = await store_at(redis, tmp_path)
    await store.create(Thing(id="a", size=1))
    older = (tmp_path / "a" / "record.msgpack").read_bytes()
    await store.update("a", lambda old: msgspec.structs.replace(old, size=2))
    (tmp_path / "a" / "record.msgpack").write_bytes(older)  # as a service leaves it that dies in between
    await store_at(redis, tmp_path)
    await (await connect(redis.url)).flushall()
    assert (await store_at(redis, tmp_path)).get("a").size == 2


async def test_a_wiped_redis_is_rebuilt_from_the_copies_and_that_is_told(
    redis: RedisServer, tmp_path: Path
) -> None:
    store = await store_at(redis, tmp_path / "things")
    await store.create(Thing(id="a", size=1))
    await store.create(Thing(id="b", size=2))
    await store.delete("b")
    client = await connect(redis.url)
    await client.flushall()
    again = await store_at(redis, tmp_path / "things")
    assert [(t.id, t.size) for t in again.all()] == [("a", 1)]
    assert (await store_at(redis)).get("a").size == 1
    told = await outbox_fields(client, b"envelope")
    what = "a thing's record that Redis had lost was restored from its copy"
    repaired = NodeRepaired(id="a", service="runtimed", what=what)
    assert [envelope_decoder.decode(body).decoded() for body in told] == [repaired]


async def test_no_directory_of_a_record_that_is_gone_stays_but_for_what_its_owner_keeps(
    redis: RedisServer, tmp_path: Path
) -> None:
    store = await store_at(redis, tmp_path / "copies")
    for name in ("plain", "kept"):
        await store.create(Thing(id=name))
    (tmp_path / "copies" / "kept" / "own").touch()
    (tmp_path / "copies" / "cut-off").mkdir()
    for name in ("plain", "kept"):
        await store.delete(name)
    assert sorted(path.name for path in (tmp_path / "copies").iterdir()) == ["cut-off", "kept"]
    await store_at(redis, tmp_path / "copies")
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["kept"]


async def test_a_redis_wiped_while_running_takes_the_next_change(redis: RedisServer) -> None:
    store = await store_at(redis)
    await store.create(Thing(id="a", size=1))
    await (await connect(redis.url)).flushall()
    assert (await store.update("a", lambda old: msgspec.structs.replace(old, size=2))).size == 2
    assert (await store_at(redis)).get("a").size == 2


async def test_what_redis_has_forgotten_is_written_anew_and_the_newer_of_two_copies_counts(
    redis: RedisServer, tmp_path: Path
) -> None:
    store = await store_at(redis, tmp_path / "copies")
    for name in ("lost", "old", "kept"):
        await store.create(Thing(id=name))
    client = await connect(redis.url)
    key = record_key("n1", "runtimed", "thing", "old")
    before = [part for pair in (await client.hgetall(key)).items() for part in pair]
    await store.update("old", lambda thing: msgspec.structs.replace(thing, size=7))
    await client.hset(key, items=before)  # as a log that was cut short leaves it
    await client.delete(record_key("n1", "runtimed", "thing", "lost"))
    assert (await store_at(redis, tmp_path / "copies")).get("old").size == 7
    await client.hset(key, items=before)
    await client.delete(record_key("n1", "runtimed", "thing", "lost"))
    assert sorted(await store.mend()) == ["lost", "old"]
    assert await store.mend() == []
    await client.hset(key, items=before)
    changed = await store.update("old", lambda thing: msgspec.structs.replace(thing, size=9))
    again = await store_at(redis)
    assert (again.get("old"), again.get("lost")) == (changed, store.get("lost"))
    await client.aclose()


async def test_a_corrupt_record_is_set_aside(redis: RedisServer) -> None:
    store = await store_at(redis)
    await store.create(Thing(id="a"))
    await store.create(Thing(id="b"))
    await (await connect(redis.url)).hset(record_key("n1", "runtimed", "thing", "a"), "record", b"\xff\xff")
    again = RecordStore(await connect(redis.url), Thing, node="n1", owner="runtimed", kind="thing")
    assert await again.load() == ["a"]
    assert [t.id for t in again.all()] == ["b"]
