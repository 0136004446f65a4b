"""The connection to Redis, and the script that makes a transition one step."""

from collections.abc import Awaitable
from typing import Any, TypeVar

import anyio
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from common.clock import now_ns
from common.errors import UnavailableError

ANSWER_S = 10.0
"""The most that any operation takes, reconnecting and retries included."""
START_S = 8.0
"""A transition that Redis comes to later than this changes nothing: its caller was told that it failed."""
NS_PER_MS = 1_000_000

TRANSITION = """
local clock = redis.call('TIME')
if clock[1] * 1000 + clock[2] / 1000 > tonumber(ARGV[1]) then return -3 end
local current = redis.call('HGET', KEYS[1], 'revision')
if ARGV[2] == '' then
  if current then return -1 end
elseif current ~= ARGV[2] then
  return current and tonumber(current) or 0
end
if ARGV[3] == '' then
  redis.call('DEL', KEYS[1])
  redis.call('SREM', KEYS[2], ARGV[4])
else
  redis.call('HSET', KEYS[1], 'revision', ARGV[3], 'record', ARGV[5])
  redis.call('SADD', KEYS[2], ARGV[4])
end
for i = 6, #ARGV do
  local seq = redis.call('INCR', KEYS[4])
  redis.call('XADD', KEYS[3], '*', 'seq', seq, 'envelope', ARGV[i])
end
return -2
"""
"""KEYS: record, index, outbox, sequence. ARGV: Unix time in ms until which it may start, expected revision
('' for none), new revision ('' deletes), id, record, envelopes. Answers -3 when it is late, -2 when done,
-1 when the record exists, else the revision found (0: none)."""
DONE = -2
EXISTS = -1
_LATE = -3
_AT_ONCE = 256
"""Keys of one round trip; a record has some KiB."""
T = TypeVar("T")


async def connect(url: str) -> "Redis":
    """A client that reconnects by itself; nothing is sent yet."""
    retry = Retry(ExponentialBackoff(cap=0.5, base=0.02), 3, supported_errors=(RedisConnectionError,))
    # no limits of the sockets' own: each operation has one as a whole
    return Redis.from_url(url, retry=retry, socket_timeout=None, socket_connect_timeout=None)


async def answer(reply: Awaitable[T]) -> T:
    """What Redis answers within ANSWER_S.

    Raises:
        UnavailableError: Redis is away or hangs, or its disk is full.
    """
    try:
        with anyio.fail_after(ANSWER_S):
            return await reply
    except TimeoutError as exc:
        raise UnavailableError(f"the record store (Redis) has not answered for {ANSWER_S:g} s") from exc
    except ResponseError as exc:
        raise UnavailableError(f"the record store (Redis) refuses: {exc}") from exc
    except (RedisError, OSError) as exc:
        raise UnavailableError(f"the record store (Redis) does not answer: {exc}") from exc


async def run(script: Any, keys: list[str], args: list[str | bytes]) -> int:
    """Run the transition script; what Redis does not come to in time has no effect later either.

    Raises:
        UnavailableError: Redis is away, hangs, or its disk is full.
    """
    latest_ms = now_ns() // NS_PER_MS + int(START_S * 1000)
    found = int(await answer(script(keys=keys, args=[str(latest_ms), *args])))
    if found == _LATE:
        late = now_ns() // NS_PER_MS > latest_ms
        what = (
            f"took over {START_S:g} s to begin" if late else f"has a clock over {START_S:g} s ahead of ours"
        )
        raise UnavailableError(f"the record store (Redis) {what}")
    return found


async def members(redis: "Redis", key: str) -> set[bytes]:
    """The members of a set."""
    found: Any = await answer(redis.smembers(key))
    return set(found)


async def bodies(redis: "Redis", keys: list[str]) -> list[bytes]:
    """The records' bytes, in the order of their keys; empty where there is none."""
    found: list[Any] = []
    for start in range(0, len(keys), _AT_ONCE):
        pipeline = redis.pipeline(transaction=False)
        for key in keys[start : start + _AT_ONCE]:
            pipeline.hget(key, "record")
        found += await answer(pipeline.execute())
    return [body or b"" for body in found]


async def revision(redis: "Redis", key: str) -> int:
    """The revision of a record; 0 when there is none."""
    found: Any = await answer(redis.hget(key, "revision"))
    return int(found or 0)


async def names(redis: "Redis", pattern: str) -> set[str]:
    """The keys that look so."""
    found: set[str] = set()
    cursor = 0
    while True:
        reply: Any = await answer(redis.scan(cursor, match=pattern, count=1000))
        cursor, batch = reply
        found |= {bytes(key).decode() for key in batch}
        if not cursor:
            return found


async def entries(
    redis: "Redis", stream: str, count: int, block_ms: int
) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The oldest entries of a stream; waits `block_ms` when it is empty."""
    found: Any = await answer(redis.xread({stream: "0"}, count=count, block=block_ms))
    return [(entry_id, fields) for _name, batch in found or [] for entry_id, fields in batch]


async def drop(redis: "Redis", stream: str, entry_ids: list[bytes]) -> None:
    """Delete entries of a stream."""
    await answer(redis.xdel(stream, *entry_ids))


async def backlog(redis: "Redis", stream: str) -> tuple[int, int]:
    """How many entries a stream has, and the Unix time of the oldest in ms (0: it is empty)."""
    count: Any = await answer(redis.xlen(stream))
    oldest: Any = await answer(redis.xrange(stream, count=1))
    return int(count), int(bytes(oldest[0][0]).partition(b"-")[0]) if oldest else 0


async def appends(redis: "Redis") -> bool:
    """Whether Redis keeps an append-only file."""
    found: Any = await answer(redis.config_get("appendonly"))
    return bool(found.get("appendonly") in ("yes", b"yes") or found.get(b"appendonly") == b"yes")
