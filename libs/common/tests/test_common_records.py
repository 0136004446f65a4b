"""Records, outbox and relay on real Redis and NATS."""

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import nats as nats_client
import pytest
from redis.asyncio import Redis

from common.errors import (
    AbortedError,
    AlreadyExistsError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    shortened,
)
from common.events import subjects
from common.events.bus import Bus, Kept, follow
from common.events.relay import OutboxRelay
from common.events.schema import (
    Event,
    ExecExited,
    ExecStarted,
    NodeEventsLost,
    NodeEventTooLarge,
    NodeRepaired,
    SandboxCreated,
    SandboxReady,
    SandboxRemoved,
    envelope_decoder,
)
from common.records import Record, RecordStore, outbox
from common.records.keys import index_key, outbox_key, record_key
from common.records.redis import ANSWER_S, connect, members
from common.sys.ports import held_port
from tests.support.brokers import (
    Launch,
    NatsServer,
    RedisServer,
    nats_server,
    redis_server,
)
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


class Thing(Record, frozen=True, kw_only=True):
    size: int = 0


@pytest.fixture
def redis(tmp_path: Path, launch: Launch) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis", launch) as server:
        yield server


@pytest.fixture
def nats(tmp_path: Path, launch: Launch) -> Iterator[NatsServer]:
    with nats_server(tmp_path / "nats", launch) as server:
        yield server


async def store_at(redis: RedisServer, directory: Path | None = None) -> RecordStore[Thing]:
    store = RecordStore(
        await connect(redis.url), Thing, node="n1", owner="runtimed", kind="thing", directory=directory
    )
    await store.load()
    return store


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
    told = await _outbox(client, b"envelope")
    what = "a thing's record that Redis had lost was restored from its copy"
    repaired = NodeRepaired(id="a", service="runtimed", what=what)
    assert [envelope_decoder.decode(body).decoded() for body in told] == [repaired]


async def _outbox(client: Redis, field: bytes) -> list[bytes]:
    """This field of each event that waits."""
    entries = await client.xrange(outbox_key("n1", "runtimed"))
    assert isinstance(entries, list)
    bodies = []
    for _, fields in entries:
        assert fields
        body = fields[field]
        assert isinstance(body, bytes)
        bodies.append(body)
    return bodies


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


async def test_events_reach_jetstream_once_and_in_order_whatever_dies(
    redis: RedisServer, nats: NatsServer
) -> None:
    store = await store_at(redis)
    async with anyio.create_task_group() as group:
        relay = OutboxRelay(await connect(redis.url), node="n1", owner="runtimed", nats_url=nats.url)
        group.start_soon(relay.run)
        await store.create(Thing(id="a"), SandboxCreated(id="a", name="p", namespace="d", uid="u"))
        nats.kill()
        await store.update("a", lambda old: old, SandboxReady(id="a"))
        nats.start()
        await store.delete("a", SandboxRemoved(id="a"))
        seen = []
        with anyio.fail_after(patience(30)):
            async for envelope in follow(nats.url, since_ns=0):
                seen.append((envelope.seq, type(envelope.decoded()), envelope.revision))
                if len(seen) == 3:
                    break
        group.cancel_scope.cancel()
    assert seen == [(1, SandboxCreated, 1), (2, SandboxReady, 2), (3, SandboxRemoved, 3)]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "large",
    [
        NodeRepaired(id="b", service="s", what="x" * (2 << 20)),
        SandboxReady(id="b" * (2 << 20)),
        SandboxReady(id="b" * (100 << 10)),
    ],
    ids=["event", "name", "header"],
)
async def test_an_event_that_nats_takes_no_message_for_is_told_as_that_and_holds_up_nothing(
    large: Event, redis: RedisServer, nats: NatsServer
) -> None:
    store = await store_at(redis)
    await store.emit(SandboxReady(id="a"), large, SandboxReady(id="c"))
    async with anyio.create_task_group() as group:
        relay = OutboxRelay(await connect(redis.url), node="n1", owner="runtimed", nats_url=nats.url)
        group.start_soon(relay.run)
        seen = []
        with anyio.fail_after(patience(30)):
            async for envelope in follow(nats.url, since_ns=1):
                seen.append((envelope.seq, envelope.decoded()))
                if len(seen) == 3:
                    break
        while await (await connect(redis.url)).xlen(outbox_key("n1", "runtimed")):
            await anyio.sleep(0.05)
        group.cancel_scope.cancel()
    assert [seen[0], seen[2]] == [(1, SandboxReady(id="a")), (3, SandboxReady(id="c"))]
    seq, told = seen[1]
    assert seq == 2
    assert isinstance(told, NodeEventTooLarge)
    assert (told.service, told.event) == ("runtimed", large.__struct_config__.tag)
    assert told.id == shortened(large.id)
    assert told.size_bytes > 100 << 10


async def test_an_outbox_has_a_bound_and_gives_up_the_minor_then_the_oldest_and_tells_it(
    redis: RedisServer, nats: NatsServer
) -> None:
    bound = 40 << 10
    store = RecordStore(
        await connect(redis.url), Thing, node="n1", owner="runtimed", kind="thing", outbox_max_bytes=bound
    )
    client = await connect(redis.url)
    lives = 0

    async def waiting() -> list[tuple[int, Event | None]]:
        found: Any = await client.xrange(outbox_key("n1", "runtimed"))
        took = sum(len(fields[b"envelope"]) + 64 for _, fields in found)
        assert took == (await outbox.held(client, "n1", "runtimed")).size_bytes <= bound
        return [(int(f[b"seq"]), envelope_decoder.decode(f[b"envelope"]).decoded()) for _, f in found]

    for number in range(100):  # more of commands than half of the room
        await store.emit(ExecStarted(id=f"e{number}", container_id="c"))
    execs = len(await waiting())
    assert 50 < execs < 100
    while execs == sum(isinstance(event, ExecStarted) for _, event in await waiting()):
        await store.create(Thing(id=f"{lives}"), SandboxReady(id=f"{lives}"))
        lives += 1
    found = await waiting()
    assert [event for _, event in found] == [SandboxReady(id=f"{number}") for number in range(lives)]
    for _ in range(200):
        await store.create(Thing(id=f"{lives}"), SandboxReady(id=f"{lives}"))
        lives += 1
    kept = await waiting()
    assert [event for _, event in kept] == [
        SandboxReady(id=f"{number}") for number in range(lives - len(kept), lives)
    ]
    lost = await outbox.held(client, "n1", "runtimed")
    assert (lost.lost, lost.lost_minor, lost.lost_ever) == (100 + lives - len(kept), 100, lost.lost)
    async with anyio.create_task_group() as group:
        relay = OutboxRelay(await connect(redis.url), node="n1", owner="runtimed", nats_url=nats.url)
        group.start_soon(relay.run)
        with anyio.fail_after(patience(30)):
            async for envelope in follow(nats.url, verb="events_lost", since_ns=1):
                assert envelope.decoded() == NodeEventsLost(id="runtimed", count=lost.lost, minor=100)
                assert envelope.seq == 100 + lives + 1
                break
            while await client.xlen(outbox_key("n1", "runtimed")):
                await anyio.sleep(0.05)
        group.cancel_scope.cancel()
    assert await outbox.held(client, "n1", "runtimed") == (0, 0, 0, lost.lost_ever)
    await store.emit(ExecStarted(id="again", container_id="c"))
    assert len(await waiting()) == 1


async def test_headers_count_for_what_nats_takes(nats: NatsServer) -> None:
    bus = await Bus.connect(nats.url)
    try:
        await bus.ensure_stream(Kept())
        subject = subjects.subject("n1", "node", "x", "repaired")
        with pytest.raises(ResourceExhaustedError, match="more than NATS takes"):
            await bus.publish(subject, b"x" * ((1 << 20) - 20), "x:1", "")
        await bus.publish(subject, b"x" * ((1 << 20) - 37), "x:2", "")
        assert not bus.lost.is_set()
    finally:
        await bus.close()


@pytest.mark.parametrize("name", ["b" * 5000, "a\r\nb", "é" * 600])
async def test_an_event_of_any_name_is_relayed(name: str, redis: RedisServer, nats: NatsServer) -> None:
    store = await store_at(redis)
    await store.emit(SandboxReady(id=name))
    async with anyio.create_task_group() as group:
        relay = OutboxRelay(await connect(redis.url), node="n1", owner="runtimed", nats_url=nats.url)
        group.start_soon(relay.run)
        with anyio.fail_after(patience(30)):
            async for envelope in follow(nats.url, object_id=name, since_ns=1):
                assert envelope.decoded() == SandboxReady(id=name)
                break
        group.cancel_scope.cancel()


async def test_what_is_published_leaves_the_outbox_also_when_the_next_is_not(
    redis: RedisServer, nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await store_at(redis)
    await store.emit(*[SandboxReady(id=f"{number}") for number in range(4)])
    relay = OutboxRelay(await connect(redis.url), node="n1", owner="runtimed", nats_url=nats.url)
    bus = await Bus.connect(nats.url)
    await bus.ensure_stream(Kept())
    real, left = bus.publish, 2

    async def publish(subject: str, payload: bytes, message_id: str, traceparent: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise UnavailableError("as when NATS goes away")
        await real(subject, payload, message_id, traceparent)

    monkeypatch.setattr(bus, "publish", publish)
    try:
        with pytest.raises(UnavailableError):
            await relay._relay(bus)
    finally:
        await bus.close()
    held = await _outbox(await connect(redis.url), b"seq")
    assert [int(number) for number in held] == [3, 4]


@pytest.mark.timeout(60)
async def test_the_events_of_an_object_that_is_made_again_are_relayed_too(
    redis: RedisServer, nats: NatsServer
) -> None:
    store = await store_at(redis)
    for _ in range(2):
        await store.create(Thing(id="a"), SandboxReady(id="a"))
        await store.delete("a", SandboxRemoved(id="a"))
    async with anyio.create_task_group() as group:
        relay = OutboxRelay(await connect(redis.url), node="n1", owner="runtimed", nats_url=nats.url)
        group.start_soon(relay.run)
        seen = []
        async for envelope in follow(nats.url, since_ns=1):
            seen.append(envelope.fields()["type"])
            if len(seen) == 4:
                break
        group.cancel_scope.cancel()
    assert seen == ["sandbox.ready.v1", "sandbox.removed.v1"] * 2


async def test_commands_push_out_only_older_ones_of_their_container(
    redis: RedisServer, nats: NatsServer
) -> None:
    store = await store_at(redis)
    await store.emit(SandboxReady(id="a"))
    for number in range(30):
        await store.emit(ExecExited(id=f"one{number}", container_id="c1", exit_code=0))
    await store.emit(ExecExited(id="other", container_id="c2", exit_code=0), SandboxReady(id="z"))
    async with anyio.create_task_group() as group:
        kept = Kept(max_repeats=10)
        relay = OutboxRelay(
            await connect(redis.url), node="n1", owner="runtimed", nats_url=nats.url, kept=kept
        )
        group.start_soon(relay.run)
        with anyio.fail_after(patience(30)):
            await anext(aiter(follow(nats.url, object_id="z", since_ns=1)))
        group.cancel_scope.cancel()
    bus = await Bus.connect(nats.url)
    try:
        held = [envelope.fields()["id"] async for _, envelope in bus.held(subjects.ALL, sequence=1)]
        assert held == ["a", *[f"one{number}" for number in range(20, 30)], "other", "z"]
        pattern = subjects.pattern("n1", subjects.EXEC, "c2")
        assert [envelope.fields()["id"] async for _, envelope in bus.held(pattern, sequence=1)] == ["other"]
        assert await bus.repeats() == 10
    finally:
        await bus.close()


async def test_any_of_the_servers_of_a_cluster_will_do(nats: NatsServer) -> None:
    with held_port() as nobody:
        bus = await Bus.connect(f"nats://127.0.0.1:{nobody},{nats.url}", attempts=2)
    assert bus.connected
    await bus.close()


async def test_the_stream_of_an_older_version_gets_todays_limits_and_keeps_the_rest(nats: NatsServer) -> None:
    client = await nats_client.connect(nats.url)
    stream = client.jetstream()
    await stream.add_stream(
        name=subjects.STREAM, subjects=[subjects.ALL], max_bytes=1 << 20, description="ours"
    )
    bus = await Bus.connect(nats.url)
    try:
        await bus.publish(subjects.subject("n1", "node", "x", "repaired"), b"kept", "x:1", "")
        await bus.ensure_stream(Kept())
        state = await stream.stream_info(subjects.STREAM)
        assert (state.config.max_bytes, state.state.messages) == (Kept().max_bytes, 1)
        assert state.config.max_msgs_per_subject == Kept().max_repeats
        assert state.config.description == "ours"
    finally:
        await bus.close()
        await client.close()


async def test_a_disk_with_little_room_has_a_smaller_stream(tmp_path: Path, launch: Launch) -> None:
    (tmp_path / "nats").mkdir()
    settings = tmp_path / "nats" / "server.conf"
    settings.write_text("jetstream { max_file_store: 100MB }")
    with nats_server(tmp_path / "nats", launch) as server:
        await _made(server, 64 << 20)
        await _made(server, 64 << 20)
        server.kill()
        settings.write_text("jetstream { max_file_store: 2GB }")
        server.start()
        await _made(server, Kept().max_bytes)
    (tmp_path / "less").mkdir()
    (tmp_path / "less" / "server.conf").write_text("jetstream { max_file_store: 1MB }")
    with nats_server(tmp_path / "less", launch) as server, pytest.raises(UnavailableError, match="storage"):
        await _made(server, 0)


@pytest.mark.parametrize("made", [False, True])
async def test_a_nats_without_jetstream_is_told_so(made: bool, tmp_path: Path, launch: Launch) -> None:
    with nats_server(tmp_path / "nats", launch, jetstream=False) as server:
        bus = await Bus.connect(server.url)
        try:
            with anyio.fail_after(patience(20)), pytest.raises(UnavailableError, match="no JetStream"):
                if made:
                    await anext(aiter(bus.follow(subjects.ALL, None)))
                else:
                    await bus.ensure_stream()
        finally:
            await bus.close()


async def _made(server: NatsServer, size: int) -> None:
    """Connect, and have a stream of this size."""
    bus = await Bus.connect(server.url)
    try:
        assert await bus.ensure_stream(Kept()) == size
        client = await nats_client.connect(server.url)
        info = await client.jetstream().stream_info(subjects.STREAM)
        await client.close()
        assert info.config.max_bytes == size
    finally:
        await bus.close()


async def test_a_closed_bus_has_no_attempt_to_reconnect_that_goes_on(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = await Bus.connect(nats.url)
    client, missed = bus._client, anyio.Event()

    async def miss_one_cancellation() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            if missed.is_set():
                raise
            missed.set()
        raise OSError("as when the server refuses in the moment of the cancellation")

    monkeypatch.setattr(client, "_select_next_server", miss_one_cancellation)
    nats.kill()
    with anyio.fail_after(patience(10)):
        await bus.lost.wait()
        await bus.close()
    nats.start()
    assert client._reconnection_task
    assert client._reconnection_task.done()
    assert missed.is_set()
