"""The connection to Redis, and what is read through it."""

from collections.abc import Awaitable
from typing import Any, TypeVar

import anyio
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from common.errors import UnavailableError

ANSWER_S = 10.0
"""The most that any operation takes, reconnecting and retries included."""
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
        raise refusal(exc) from exc
    except (RedisError, OSError) as exc:
        raise UnavailableError(f"the record store (Redis) does not answer: {exc}") from exc


def refusal(said: ResponseError) -> UnavailableError:
    """What Redis' error means to a caller."""
    return UnavailableError(f"the record store (Redis) refuses: {said}")


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


async def backlog(redis: "Redis", stream: str) -> tuple[int, int]:
    """How many entries a stream has, and the Unix time of the oldest in ms (0: it is empty)."""
    count: Any = await answer(redis.xlen(stream))
    oldest: Any = await answer(redis.xrange(stream, count=1))
    return int(count), int(bytes(oldest[0][0]).partition(b"-")[0]) if oldest else 0


async def appends(redis: "Redis") -> bool:
    """Whether Redis keeps an append-only file."""
    found: Any = await answer(redis.config_get("appendonly"))
    return bool(found.get("appendonly") in ("yes", b"yes") or found.get(b"appendonly") == b"yes")
