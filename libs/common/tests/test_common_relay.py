"""Events on their way from the outbox to JetStream, on real Redis and NATS."""

from typing import Any

import anyio
import pytest

from common.errors import UnavailableError, shortened
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
from common.records import RecordStore, outbox
from common.records.keys import outbox_key
from common.records.redis import connect
from libs.common.tests.things import Thing, outbox_fields, store_at
from tests.support.brokers import NatsServer, RedisServer
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


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
    held = await outbox_fields(await connect(redis.url), b"seq")
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
