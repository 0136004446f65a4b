"""The history of events: of each object every event once, in order, and none that is missing."""

import re
from collections import defaultdict
from contextlib import aclosing

from common.events import subjects
from common.events.bus import Bus
from common.events.schema import Envelope
from torture.book import Book, Life

CONTAINER = re.compile(
    r"created (unknown )?(started )?(start_failed |(stop_requested )*(unknown )?(stop_requested )*(exited )?)removed "
)
SANDBOX = re.compile(r"created ready (stopped )?removed ")


async def read(nats_url: str) -> list[Envelope]:
    """All events that JetStream holds, in their order."""
    bus = await Bus.connect(nats_url, attempts=8)
    try:
        async with aclosing(bus.held(subjects.pattern("*", "*", "*", "*"), sequence=1)) as held:
            return [envelope async for _, envelope in held]
    finally:
        await bus.close()


def check(events: list[Envelope], book: Book) -> None:
    """Compare the history with what the workers did."""
    verbs: defaultdict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    last: dict[str, int] = {}
    for envelope in events:
        if envelope.id in seen:
            book.lost(f"event {envelope.id}: came twice")
        seen.add(envelope.id)
        if envelope.seq <= last.get(envelope.source, 0):
            book.lost(f"event {envelope.id}: number {envelope.seq} after {last[envelope.source]}")
        last[envelope.source] = max(envelope.seq, last.get(envelope.source, 0))
        fields = envelope.fields()
        kind, verb, _ = str(fields["type"]).split(".")
        if kind in ("container", "sandbox"):
            verbs[str(fields["id"])].append(verb)
    for life in book.lives.values():
        if life.removed:
            _container(life, verbs[life.container_id], book)
    for sandbox_id, name in book.sandboxes.items():
        told = "".join(f"{verb} " for verb in verbs[sandbox_id])
        if not SANDBOX.fullmatch(told):
            book.lost(f"{name}: events of the pod: {told}")
    book.count("events", len(events))


def _container(life: Life, verbs: list[str], book: Book) -> None:
    told = "".join(f"{verb} " for verb in verbs)
    once = [verb for verb in ("created", "started", "exited", "removed") if verbs.count(verb) > 1]
    missing = {"started", "exited"} - set(verbs) if life.started and not life.harm else set()
    if once or missing or not CONTAINER.fullmatch(told):
        book.lost(f"{life.container_id[:12]}: events {told}")
