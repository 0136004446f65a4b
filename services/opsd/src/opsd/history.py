"""The event log of the past: reads JetStream from a time on, or backwards from one."""

import json
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import msgspec

from common.clock import now_ns
from common.errors import UnavailableError
from common.events import subjects
from common.events.bus import Bus
from common.turns import Turns
from opsd.eventrow import event_row, is_progress

NS_PER_MS = 1_000_000
MAX_ROWS = 2_000
MAX_READ = 50_000
"""Events that are looked at for one answer."""
WINDOWS_S = (60, 600, 3600, 6 * 3600, 86400, 7 * 86400)
"""How far back a search goes, step by step, until it has enough."""


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


async def read(bus: Bus | None, wanted: Wanted) -> dict[str, Any]:
    """The first events from `since` on, or the last ones before `until`, in their order.

    Returns:
        `events`; `more` when there are others in that direction; `first`, the time of the oldest that is held.

    Raises:
        UnavailableError: NATS is away.
    """
    if bus is None:
        raise UnavailableError("the event log is not there while NATS is away")
    first_ms = await bus.held_since_ns() / NS_PER_MS
    limit = max(1, min(wanted.limit, MAX_ROWS))
    if wanted.since:
        rows, more = await _forward(bus, wanted, limit)
    else:
        rows, more = await _backward(bus, wanted, limit, first_ms)
    return {"events": rows, "more": more, "first": first_ms}


async def _forward(bus: Bus, wanted: Wanted, limit: int) -> tuple[list[dict[str, Any]], bool]:
    rows: list[dict[str, Any]] = []
    async with aclosing(_rows(bus, wanted, wanted.since)) as found:
        async for row in found:
            if len(rows) == limit:
                return rows, True
            rows.append(row)
    return rows, False


async def _backward(
    bus: Bus, wanted: Wanted, limit: int, first_ms: float
) -> tuple[list[dict[str, Any]], bool]:
    until = wanted.until or now_ns() / NS_PER_MS
    wanted = msgspec.structs.replace(wanted, until=until)
    rows: deque[dict[str, Any]] = deque(maxlen=limit)
    for window_s in WINDOWS_S:
        since = until - window_s * 1000
        rows.clear()
        count = 0
        async for row in _rows(bus, wanted, since):
            rows.append(row)
            count += 1
        if count >= limit or since <= first_ms:
            return list(rows), count > limit or since > first_ms
    return list(rows), False


async def _rows(bus: Bus, wanted: Wanted, since_ms: float) -> AsyncGenerator[dict[str, Any], None]:
    pattern = subjects.pattern(node=wanted.node or "*", kind=wanted.kind or "*", verb=wanted.verb or "*")
    looked, turns = 0, Turns()
    async with aclosing(bus.held(pattern, since_ns=max(0, int(since_ms * NS_PER_MS)))) as events:
        async for sequence, envelope in events:
            looked += 1
            await turns.give()
            at_ms = envelope.at_ns / NS_PER_MS
            # stored a little after it happened, so the order is that of storing
            if looked > MAX_READ or (wanted.until and at_ms >= wanted.until):
                return
            if is_progress(envelope) and not wanted.verb:
                continue
            row = event_row(sequence, envelope)
            if wanted.fits(row):
                yield row
