"""What a node has recorded: every record of every service in Redis, and the history of events in JetStream."""

from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from common.events import subjects
from common.events.bus import Bus
from common.events.schema import Envelope
from common.records import keys
from common.records import redis as store

OWNERS = {
    "container": "runtimed",
    "sandbox": "runtimed",
    "snapshot": "snapshotd",
    "layer": "snapshotd",
    "image": "imaged",
}
"""The service that writes each kind of record."""
Records = dict[str, dict[str, dict[str, Any]]]
"""Fields of each record, by kind and id; a record that cannot be read has none."""


@dataclass(frozen=True)
class Recorded:
    """One look at Redis."""

    records: Records
    loose: list[str]
    """Keys that no index names."""
    waiting: int
    """Events that JetStream has not got yet."""


async def read(redis_url: str, node: str) -> Recorded:
    """Read all records of a node.

    Raises:
        UnavailableError: Redis is away.
    """
    redis = await store.connect(redis_url)
    try:
        records: Records = {}
        named = {keys.outbox_key(node, owner) for owner in OWNERS.values()}
        named |= {keys.sequence_key(node, owner) for owner in OWNERS.values()}
        named |= {keys.held_key(node, owner) for owner in OWNERS.values()}
        waiting = 0
        for owner in sorted(set(OWNERS.values())):
            waiting += (await store.backlog(redis, keys.outbox_key(node, owner)))[0]
        for kind, owner in OWNERS.items():
            index = keys.index_key(node, owner, kind)
            named.add(index)
            names = sorted(bytes(member).decode() for member in await store.members(redis, index))
            where = [keys.record_key(node, owner, kind, name) for name in names]
            named.update(where)
            bodies = await store.bodies(redis, where)
            records[kind] = {name: decode(body) for name, body in zip(names, bodies, strict=True)}
        loose = sorted(await store.names(redis, keys.pattern(node)) - named)
    finally:
        await redis.aclose()
    return Recorded(records, loose, waiting)


def decode(body: bytes) -> dict[str, Any]:
    """The fields of a record, whatever service it is of; none when it cannot be read."""
    try:
        found = msgspec.msgpack.decode(body)
    except msgspec.MsgspecError:
        return {}
    return found if isinstance(found, dict) else {}


async def repeats(nats_url: str) -> int:
    """How many events of one subject JetStream keeps; -1 for any number.

    Raises:
        UnavailableError: NATS is away.
    """
    bus = await Bus.connect(nats_url, attempts=8)
    try:
        return await bus.repeats()
    finally:
        await bus.close()


async def history(nats_url: str, node: str) -> list[Envelope]:
    """All events of a node that JetStream holds, in their order.

    Raises:
        UnavailableError: NATS is away.
    """
    bus = await Bus.connect(nats_url, attempts=8)
    try:
        async with aclosing(bus.held(subjects.pattern(node), sequence=1)) as held:
            return [envelope async for _, envelope in held]
    finally:
        await bus.close()
