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
if #ARGV < 7 then return -2 end
local held, max = tonumber(redis.call('HGET', KEYS[5], 'bytes') or '0'), tonumber(ARGV[6])
local function lose(minor)
  redis.call('HINCRBY', KEYS[5], 'lost', 1)
  redis.call('HINCRBY', KEYS[5], 'lost_ever', 1)
  if minor then redis.call('HINCRBY', KEYS[5], 'lost_minor', 1) end
end
local function give_up(entry)
  redis.call('XDEL', KEYS[3], entry[1])
  held = held - #entry[2][4] - 64
  lose(entry[2][5])
end
for i = 7, #ARGV, 2 do
  local seq, minor = redis.call('INCR', KEYS[4]), ARGV[i + 1] ~= ''
  if minor and held > max / 2 then
    lose(true)
  elseif minor then
    redis.call('XADD', KEYS[3], '*', 'seq', seq, 'envelope', ARGV[i], 'minor', '1')
    held = held + #ARGV[i] + 64
  else
    redis.call('XADD', KEYS[3], '*', 'seq', seq, 'envelope', ARGV[i])
    held = held + #ARGV[i] + 64
  end
end
local searched = redis.call('HGET', KEYS[5], 'searched') or '-'
if held > max and searched ~= 'all' then
  local page = redis.call('XRANGE', KEYS[3], searched, '+', 'COUNT', 512)
  for _, entry in ipairs(page) do
    if entry[2][5] then give_up(entry) end
  end
  searched = #page == 512 and '(' .. page[512][1] or 'all'
  redis.call('HSET', KEYS[5], 'searched', searched)
end
if held > max and searched == 'all' then
  for _, entry in ipairs(redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 512)) do
    if held > max then give_up(entry) end
  end
end
redis.call('HSET', KEYS[5], 'bytes', held)
return -2
"""
"""KEYS: record, index, outbox, sequence, what the outbox holds. ARGV: Unix time in ms until which it may start,
expected revision ('' for none), new revision ('' deletes), id, record, bytes of the outbox at most, and envelopes, each
with a word after it that says whether it is a minor one, or ''. Answers -3 when it is late, -2 when done, -1 when the
record exists, else the revision found (0: none).

Minor events are not added to an outbox that is half full. In a full one they go first, a page of it being searched with
each transition, then the oldest. An entry counts with 64 bytes more than its envelope."""
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
            # a script that is called as one asks in a trip of its own whether Redis has it
            trip.evalsha(self._script.sha, len(asked.keys), *asked.keys, *asked.args)
        found = await trip.execute(raise_on_error=False)
        # a Redis that was started again meanwhile has not got the script yet
        return [
            await self._alone(asked) if isinstance(each, NoScriptError) else each
            for asked, each in zip(together, found, strict=True)
        ]

    async def _alone(self, asked: _Asked) -> Any:
        return await self._script(keys=asked.keys, args=asked.args)
