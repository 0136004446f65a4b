"""The script that makes a transition one step, and its trips to Redis."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from common.clock import now_ns
from common.errors import UnavailableError
from common.records.redis import answer, refusal

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


@dataclass(eq=False)
class _Asked:
    """One transition on its way."""

    keys: Sequence[str]
    args: Sequence[str | bytes]
    answered: anyio.Event = field(default_factory=anyio.Event)
    found: int | UnavailableError = field(default_factory=lambda: UnavailableError("the service is stopping"))


class TransitionScript:
    """Runs transitions. Those asked for in the same moment go together: a trip takes longer than its script.

    Args:
        redis: connection from `common.records.redis.connect`.
    """

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._script = redis.register_script(TRANSITION)
        self._waiting: list[_Asked] = []

    async def run(self, keys: Sequence[str], args: Sequence[str | bytes]) -> int:
        """Run one; what Redis does not come to in time has no effect later either.

        Raises:
            UnavailableError: Redis is away, hangs, or its disk is full.
        """
        latest_ms = now_ns() // NS_PER_MS + int(START_S * 1000)
        asked = _Asked(keys, [str(latest_ms), *args])
        self._waiting.append(asked)
        if len(self._waiting) == 1:
            with anyio.CancelScope(shield=True):  # others wait for it
                await anyio.lowlevel.checkpoint()
                together, self._waiting = self._waiting, []
                await self._go(together)
        else:
            await asked.answered.wait()
        if isinstance(asked.found, int) and asked.found != _LATE:
            return asked.found
        if isinstance(asked.found, UnavailableError):
            raise UnavailableError(asked.found.message)  # each its own: a shared one gathers tracebacks
        late = now_ns() // NS_PER_MS > latest_ms
        what = (
            f"took over {START_S:g} s to begin" if late else f"has a clock over {START_S:g} s ahead of ours"
        )
        raise UnavailableError(f"the record store (Redis) {what}")

    async def _go(self, together: Sequence[_Asked]) -> None:
        try:
            for asked, found in zip(together, await answer(self._sent(together)), strict=True):
                asked.found = refusal(found) if isinstance(found, ResponseError) else int(found)
        except UnavailableError as exc:
            for asked in together:
                asked.found = exc
        finally:
            for asked in together:
                asked.answered.set()

    async def _sent(self, together: Sequence[_Asked]) -> list[Any]:
        if len(together) == 1:
            return [await self._alone(together[0])]
        trip = self._redis.pipeline(transaction=False)
        for asked in together:
            await self._script(keys=asked.keys, args=asked.args, client=trip)
        found = await trip.execute(raise_on_error=False)
        # a Redis that was started again meanwhile has not got the script yet
        return [
            await self._alone(asked) if isinstance(each, NoScriptError) else each
            for asked, each in zip(together, found, strict=True)
        ]

    async def _alone(self, asked: _Asked) -> Any:
        return await self._script(keys=asked.keys, args=asked.args)
