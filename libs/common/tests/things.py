"""Records that tests make, and their events that wait."""

from pathlib import Path

from redis.asyncio import Redis

from common.records import Record, RecordStore
from common.records.keys import outbox_key
from common.records.redis import connect
from tests.support.brokers import RedisServer


class Thing(Record, frozen=True, kw_only=True):
    size: int = 0


async def store_at(redis: RedisServer, directory: Path | None = None) -> RecordStore[Thing]:
    store = RecordStore(
        await connect(redis.url), Thing, node="n1", owner="runtimed", kind="thing", directory=directory
    )
    await store.load()
    return store


async def outbox_fields(client: Redis, field: bytes) -> list[bytes]:
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
