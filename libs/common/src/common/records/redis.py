"""The connection to Redis, and the script that makes a transition one step."""

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from common.errors import UnavailableError

TIMEOUT_S = 5.0

TRANSITION = """
local current = redis.call('HGET', KEYS[1], 'revision')
if ARGV[1] == '' then
  if current then return -1 end
elseif current ~= ARGV[1] then
  return current and tonumber(current) or 0
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
  redis.call('SREM', KEYS[2], ARGV[3])
else
  redis.call('HSET', KEYS[1], 'revision', ARGV[2], 'record', ARGV[4])
  redis.call('SADD', KEYS[2], ARGV[3])
end
for i = 5, #ARGV do
  local seq = redis.call('INCR', KEYS[4])
  redis.call('XADD', KEYS[3], '*', 'seq', seq, 'envelope', ARGV[i])
end
return -2
"""
"""KEYS: record, index, outbox, sequence. ARGV: expected revision ('' for none), new revision ('' deletes),
id, record, envelopes. Answers -2 when done, -1 when the record exists, else the revision found (0: none)."""
DONE = -2
EXISTS = -1


async def connect(url: str) -> "Redis":
    """A client that reconnects by itself; nothing is sent yet."""
    retry = Retry(ExponentialBackoff(cap=0.5, base=0.02), 3)
    return Redis.from_url(
        url,
        retry=retry,
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
    )


async def run(script: Any, keys: list[str], args: list[str | bytes]) -> int:
    """Run the transition script.

    Raises:
        UnavailableError: Redis is away, or its disk is full.
    """
    try:
        return int(await script(keys=keys, args=args))
    except ResponseError as exc:
        raise UnavailableError(f"the record store (Redis) refuses: {exc}") from exc
    except (RedisError, OSError) as exc:
        message = f"the record store (Redis) does not answer: {exc}"
        raise UnavailableError(message) from exc


async def members(redis: "Redis", key: str) -> set[bytes]:
    """The members of a set."""
    found: Any = await redis.smembers(key)
    return set(found)


async def body(redis: "Redis", key: str) -> bytes:
    """The record's bytes; empty when there is none."""
    found: Any = await redis.hget(key, "record")
    return found or b""


async def entries(
    redis: "Redis", stream: str, count: int, block_ms: int
) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The oldest entries of a stream; waits `block_ms` when it is empty."""
    found: Any = await redis.xread({stream: "0"}, count=count, block=block_ms)
    return [(entry_id, fields) for _name, batch in found or [] for entry_id, fields in batch]
