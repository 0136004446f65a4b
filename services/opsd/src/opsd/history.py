"""The event log of the past: reads JetStream from a time on, or backwards from one."""

import json
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import msgspec

from common.errors import UnavailableError
from common.events import subjects
from common.events.bus import Bus
from common.turns import Turns
from opsd.eventrow import event_row, is_progress

NS_PER_MS = 1_000_000
MAX_ROWS = 2_000
MAX_READ = 20_000
"""Events that are looked at for one answer."""
FIRST_BLOCK = 1_000
"""Sequences that a search backwards reads at first; the next block is twice as long."""
LEAST_LEFT = 0.02
"""Share of MAX_READ with which a search goes on."""
LATE_NS = 5_000_000_000
"""By how much later than it happened an event may be stored, and still be found before `until`."""

Moment = Annotated[float, msgspec.Meta(ge=0, le=4e12)]
"""Unix milliseconds that a date has, for 120 years; no infinity, no NaN."""


class Wanted(msgspec.Struct, kw_only=True):
    """Which events; empty words fit all. Times are Unix milliseconds, 0 for none."""

    node: str = ""
    kind: str = ""
    verb: str = ""
    id: str = ""
    """The beginning of the object's id, or of one that the event names."""
    text: str = ""
    since: Moment = 0
    until: Moment = 0
    limit: int = 500

    def fits(self, row: dict[str, Any]) -> bool:
        """Whether a row is wanted."""
        if any(
            want and want != row[name] for name in ("node", "kind", "verb") if (want := getattr(self, name))
        ):
            return False
        if self.id and not any(each.startswith(self.id) for each in _ids(row)):
            return False
        return not self.text or self.text.lower() in json.dumps(row, ensure_ascii=False).lower()


def _ids(row: dict[str, Any]) -> list[str]:
    named = [str(each) for name, each in row["facts"].items() if name.endswith("_id")]
    return [each.removeprefix("sha256:") for each in (row["id"], *named)]


async def read(bus: Bus | None, wanted: Wanted, *, of_container: bool = False) -> dict[str, Any]:
    """The first events from `since` on, or the last ones before `until`, in their order.

    Args:
        bus: None while NATS is away.
        wanted: which events.
        of_container: `wanted.id` is the whole id of a container, so that only the subjects that may name it are read.

    Returns:
        `events`; `more` when there are, or may be, others in that direction, and `reached`, the time up to which all
        were looked at; `first`, the time of the oldest that is held.

    Raises:
        UnavailableError: NATS is away.
    """
    if bus is None:
        raise UnavailableError("the event log is not there while NATS is away")
    oldest = await bus.first()
    if oldest is None:
        return {"events": [], "more": False, "reached": 0, "first": 0}
    search = _Search(bus, wanted, _patterns(wanted, of_container=of_container))
    found = await (search.forward() if wanted.since else search.backward(oldest[0]))
    return found | {"first": oldest[1].at_ns / NS_PER_MS}


def _patterns(wanted: Wanted, *, of_container: bool) -> list[str]:
    node, verb = wanted.node or "*", wanted.verb or "*"
    if not of_container or wanted.kind:
        return [subjects.pattern(node, wanted.kind or "*", "*", verb)]
    return [
        subjects.pattern(node, "container", wanted.id, verb),
        subjects.pattern(node, "snapshot", wanted.id, verb),
        subjects.pattern(node, subjects.EXEC, wanted.id, verb),
        subjects.pattern(node, "image", "*", "committed"),
    ]


class _Search:
    """One search; looks at MAX_READ events at most."""

    def __init__(self, bus: Bus, wanted: Wanted, patterns: list[str]) -> None:
        self._bus = bus
        self._wanted = wanted
        self._patterns = patterns
        self._limit = max(1, min(wanted.limit, MAX_ROWS))
        self._left = MAX_READ

    async def forward(self) -> dict[str, Any]:
        """From `since` on."""
        wanted, rows = self._wanted, list[dict[str, Any]]()
        start_ns = max(0, int(wanted.since * NS_PER_MS))
        reached = wanted.since
        async with aclosing(self._read(since_ns=start_ns)) as found:
            async for _, at_ms, row in found:
                if wanted.until and at_ms >= wanted.until:
                    break
                if len(rows) == self._limit or not self._left:
                    return {"events": rows, "more": True, "reached": reached}
                reached = max(reached, at_ms)
                if row:
                    rows.append(row)
        return {"events": rows, "more": False, "reached": reached}

    async def backward(self, oldest: int) -> dict[str, Any]:
        """Before `until`, by blocks that end where the one before began: what is left out is older than all of them."""
        end, size = await self._end(), FIRST_BLOCK
        rows: list[dict[str, Any]] = []
        while end > oldest and len(rows) < self._limit and self._left > MAX_READ * LEAST_LEFT:
            if size > self._left and await self._bus.count(self._patterns) > self._left:
                size = self._left
            start = max(oldest, end - size)
            rows = (await self._block(start, end) + rows)[-self._limit - 1 :]
            end, size = start, 2 * size
        more = len(rows) > self._limit or end > oldest
        rows = rows[-self._limit :]
        if len(rows) == self._limit:
            return {"events": rows, "more": more, "reached": rows[0]["at"]}
        first = await self._bus.first(sequence=end)
        return {"events": rows, "more": more, "reached": first[1].at_ns / NS_PER_MS if first else 0}

    async def _end(self) -> int:
        """The sequence before which everything is that happened before `until`."""
        if self._wanted.until:
            later = await self._bus.first(since_ns=int(self._wanted.until * NS_PER_MS) + LATE_NS)
            if later:
                return later[0]
        return await self._bus.last_sequence() + 1

    async def _block(self, start: int, end: int) -> list[dict[str, Any]]:
        """The last ones that fit, of the sequences from `start` to before `end`."""
        rows: deque[dict[str, Any]] = deque(maxlen=self._limit + 1)
        until = self._wanted.until
        async with aclosing(self._read(sequence=start)) as found:
            async for sequence, at_ms, row in found:
                if sequence >= end:
                    break
                if row and not (until and at_ms >= until):
                    rows.append(row)
        return list(rows)

    async def _read(
        self, *, since_ns: int | None = None, sequence: int | None = None
    ) -> AsyncGenerator[tuple[int, float, dict[str, Any] | None], None]:
        """Sequence and time of each event, in the order of storing, and its row when it is wanted."""
        turns = Turns()
        async with aclosing(self._bus.held(self._patterns, since_ns=since_ns, sequence=sequence)) as events:
            async for number, envelope in events:
                await turns.give()
                row = None
                if self._wanted.verb or not is_progress(envelope):
                    row = event_row(number, envelope)
                    row = row if self._wanted.fits(row) else None
                yield number, envelope.at_ns / NS_PER_MS, row
                self._left -= 1
