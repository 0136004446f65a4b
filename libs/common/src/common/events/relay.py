"""The outbox relay: what a service's transitions left in Redis goes to JetStream, once and in order."""

import hashlib
from collections.abc import Sequence

import anyio
import msgspec
from redis.asyncio import Redis

from common.clock import now_ns
from common.errors import ResourceExhaustedError, UnavailableError, shortened
from common.events import subjects
from common.events.bus import Bus, Kept
from common.events.schema import Envelope, NodeEventsLost, NodeEventTooLarge, encoder, envelope_decoder
from common.observe import metrics
from common.observe.log import get_logger
from common.records import outbox
from common.records.keys import outbox_key
from common.records.redis import backlog, connect, entries
from common.settings import CommonSettings

BATCH = 256
BLOCK_MS = 1000
LINGER_S = 0.05
"""How long entries are let gather: what a request causes goes out together, and after it rather than meanwhile."""
MAX_WAIT_S = 5.0
NS_PER_MS = 1_000_000
_log = get_logger("relay")
_REDIS = metrics.gauge("redis_up", "Whether Redis answers (1) or not (0).", ["service"])
_NATS = metrics.gauge("nats_up", "Whether the relay is connected to NATS (1) or not (0).", ["service"])
_WAITING = metrics.gauge("outbox_entries", "Events that wait to be relayed to NATS.", ["service"])
_BYTES = metrics.gauge("outbox_bytes", "What they take, of `outbox_max_bytes`.", ["service"])
_LOST = metrics.gauge(
    "outbox_lost", "Events that were given up as it was full, since Redis has it.", ["service"]
)
_LAG = metrics.gauge("outbox_lag_seconds", "Age of the oldest event that waits to be relayed.", ["service"])
_RELAYED = metrics.counter("events_relayed_total", "Events that NATS has acknowledged.", ["service"])
_TOO_LARGE = metrics.counter(
    "events_too_large_total", "Events that NATS takes no message for; another is in their place.", ["service"]
)
DROP_S = 2.0
"""For an outbox to forget what is published when the relay ends meanwhile."""


class OutboxRelay:
    """Publishes one owner's outbox entries and trims those acknowledged.

    Args:
        redis: a connection of its own, since reading blocks.
        node: this node.
        owner: the service whose outbox it is.
        nats_url: where JetStream is.
        kept: what its stream is to keep; by default what the settings have by default.
    """

    def __init__(
        self, redis: "Redis", *, node: str, owner: str, nats_url: str, kept: Kept | None = None
    ) -> None:
        self._redis = redis
        self._node = node
        self._owner = owner
        self._url = nats_url
        self._kept = kept or Kept()
        self._key = outbox_key(node, owner)
        self._bus: Bus | None = None

    @classmethod
    async def of(cls, settings: CommonSettings, owner: str) -> "OutboxRelay":
        """That of a service with these settings."""
        redis = await connect(settings.redis_url)
        kept = Kept.of(settings)
        return cls(redis, node=settings.node, owner=owner, nats_url=settings.nats_url, kept=kept)

    @property
    def connected(self) -> bool:
        """Whether events go out now."""
        return self._bus is not None and self._bus.connected

    async def run(self) -> None:
        """Relay for ever, through any outage of Redis or NATS."""
        metrics.measure(self._measure)
        wait_s = 0.1
        while True:
            try:
                bus = await Bus.connect(self._url)
                try:
                    wanted = self._kept.max_bytes
                    held_bytes = await bus.ensure_stream(self._kept)
                    if held_bytes < wanted:
                        _log.warning("stream.small", owner=self._owner, bytes=held_bytes, wanted=wanted)
                    wait_s = 0.1
                    await self._relay(bus)
                finally:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(2):
                        await bus.close()
            except (UnavailableError, OSError) as exc:
                _log.warning("relay.waiting", owner=self._owner, error=str(exc) or type(exc).__name__)
            except Exception:  # noqa: BLE001 - the border: events wait in the outbox, whatever the broker said
                _log.exception("relay.failed", owner=self._owner)
            await anyio.sleep(wait_s)
            wait_s = min(wait_s * 2, MAX_WAIT_S)

    async def _relay(self, bus: Bus) -> None:
        self._bus = bus
        try:
            while True:
                if not await entries(self._redis, self._key, 1, BLOCK_MS):
                    continue
                await self._tell_lost()
                await anyio.sleep(LINGER_S)
                gathered = await entries(self._redis, self._key, BATCH, BLOCK_MS)
                await self._relay_all(bus, gathered)
        finally:
            self._bus = None

    async def _relay_all(self, bus: Bus, gathered: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> None:
        """Publish entries, and forget those that are out, also when one of them cannot be published now."""
        out: list[bytes] = []
        try:
            for entry_id, fields in gathered:
                await self._publish(bus, fields)
                out.append(entry_id)
        finally:
            if out:
                with anyio.CancelScope(shield=True), anyio.move_on_after(DROP_S):
                    await outbox.drop(self._redis, self._node, self._owner, out)

    async def _tell_lost(self) -> None:
        """Add to the outbox what it had to give up."""
        held = await outbox.held(self._redis, self._node, self._owner)
        if not held.lost:
            return
        at_ns = now_ns()
        fact = NodeEventsLost(id=self._owner, count=held.lost, minor=held.lost_minor)
        envelope = Envelope(
            id=f"{self._node}:{fact.kind}:lost:{self._owner}:{at_ns}",
            at_ns=at_ns,
            node=self._node,
            source=self._owner,
            revision=0,
            event=msgspec.Raw(encoder.encode(fact)),
        )
        told = encoder.encode(envelope)
        if await outbox.tell_lost(self._redis, self._node, self._owner, held.lost, told):
            _log.error("events.lost", owner=self._owner, count=held.lost, minor=held.lost_minor)

    async def _measure(self) -> None:
        _NATS.labels(self._owner).set(self.connected)
        _REDIS.labels(self._owner).set(0)
        count, oldest_ms = await backlog(self._redis, self._key)
        _REDIS.labels(self._owner).set(1)
        _WAITING.labels(self._owner).set(count)
        held = await outbox.held(self._redis, self._node, self._owner)
        _BYTES.labels(self._owner).set(held.size_bytes)
        _LOST.labels(self._owner).set(held.lost_ever)
        lag_s = max(0, now_ns() // NS_PER_MS - oldest_ms) / 1000 if count else 0
        _LAG.labels(self._owner).set(lag_s)

    async def _publish(self, bus: Bus, fields: dict[bytes, bytes]) -> None:
        envelope = msgspec.structs.replace(
            envelope_decoder.decode(fields[b"envelope"]), seq=int(fields[b"seq"])
        )
        try:
            await self._send(bus, envelope)
        except ResourceExhaustedError as exc:
            _log.error("event.too_large", owner=self._owner, seq=envelope.seq, error=exc.message)
            await self._send(bus, _in_place_of(envelope, len(fields[b"envelope"])))
            _TOO_LARGE.labels(self._owner).inc()
        _RELAYED.labels(self._owner).inc()

    async def _send(self, bus: Bus, envelope: Envelope) -> None:
        subject = subjects.of_event(self._node, envelope.fields())
        await bus.publish(subject, encoder.encode(envelope), envelope.id, envelope.traceparent)


def _in_place_of(envelope: Envelope, size_bytes: int) -> Envelope:
    """What is told when an event cannot be; the same each time, so that JetStream knows a repetition."""
    table = envelope.fields()
    fact = NodeEventTooLarge(
        id=shortened(str(table["id"])),
        service=envelope.source,
        event=str(table["type"]),
        size_bytes=size_bytes,
    )
    name = hashlib.sha256(envelope.id.encode()).hexdigest()
    return msgspec.structs.replace(
        envelope,
        id=f"{envelope.node}:{fact.kind}:{name}:{envelope.revision}:{envelope.at_ns}",
        traceparent="",
        event=msgspec.Raw(encoder.encode(fact)),
    )
