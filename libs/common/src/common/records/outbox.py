"""An outbox: the events of a service that NATS has not got yet, how much they may take, and what is given up.

A transition adds to it, in common.records.script; what is here is for the relay, metrics and `slipway doctor`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis

from common.records import keys
from common.records.redis import answer

DROP = """
local held = tonumber(redis.call('HGET', KEYS[2], 'bytes') or '0')
for i = 1, #ARGV do
  local found = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])
  if found[1] then
    held = held - #found[1][2][4] - 64
    redis.call('XDEL', KEYS[1], ARGV[i])
  end
end
redis.call('HDEL', KEYS[2], 'searched')
if redis.call('XLEN', KEYS[1]) == 0 then held = 0 end
redis.call('HSET', KEYS[2], 'bytes', math.max(0, held))
"""
"""KEYS: outbox, what is held. ARGV: entries."""
TELL = """
if redis.call('HGET', KEYS[2], 'lost') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[2], 'lost', 'lost_minor')
redis.call('XADD', KEYS[1], '*', 'seq', redis.call('INCR', KEYS[3]), 'envelope', ARGV[2])
redis.call('HINCRBY', KEYS[2], 'bytes', #ARGV[2] + 64)
return 1
"""
"""KEYS: outbox, what is held, sequence. ARGV: number of lost events that the envelope tells of, envelope."""


class Held(NamedTuple):
    """What an outbox holds, and what it gave up as it was full."""

    size_bytes: int
    lost: int
    """Not told of yet."""
    lost_minor: int
    """Of these, events of commands and of pressure."""
    lost_ever: int
    """Since Redis has the outbox."""


async def held(redis: "Redis", node: str, owner: str) -> Held:
    """How full an outbox is.

    Raises:
        UnavailableError: Redis is away.
    """
    fields = ["bytes", "lost", "lost_minor", "lost_ever"]
    found: Any = await answer(redis.hmget(keys.held_key(node, owner), fields))
    return Held(*[int(value or 0) for value in found])


async def drop(redis: "Redis", node: str, owner: str, entry_ids: Sequence[bytes]) -> None:
    """Forget entries, as NATS has them."""
    where = [keys.outbox_key(node, owner), keys.held_key(node, owner)]
    await answer(redis.register_script(DROP)(keys=where, args=list(entry_ids)))


async def tell_lost(redis: "Redis", node: str, owner: str, lost: int, envelope: bytes) -> bool:
    """Add the event that tells of lost ones; False when more are lost by now."""
    where = [keys.outbox_key(node, owner), keys.held_key(node, owner), keys.sequence_key(node, owner)]
    return bool(await answer(redis.register_script(TELL)(keys=where, args=[lost, envelope])))
