"""The outbox relay: what a service's transitions left in Redis goes to JetStream, once and in order."""

import anyio
from redis.asyncio import Redis

from common.errors import UnavailableError
from common.events import subjects
from common.events.bus import Bus
from common.events.schema import encoder, envelope_decoder
from common.observe.log import get_logger
from common.records.keys import outbox_key
from common.records.redis import drop, entries

BATCH = 256
BLOCK_MS = 1000
LINGER_S = 0.05
"""How long entries are let gather: what a request causes goes out together, and after it rather than meanwhile."""
MAX_WAIT_S = 5.0
_log = get_logger("relay")


class OutboxRelay:
    """Publishes one owner's outbox entries and trims those acknowledged.

    Args:
        redis: a connection of its own, since reading blocks.
        node: this node.
        owner: the service whose outbox it is.
        nats_url: where JetStream is.
    """

    def __init__(self, redis: "Redis", *, node: str, owner: str, nats_url: str) -> None:
        self._redis = redis
        self._node = node
        self._owner = owner
        self._url = nats_url
        self._key = outbox_key(node, owner)

    async def run(self) -> None:
        """Relay for ever, through any outage of Redis or NATS."""
        wait_s = 0.1
        while True:
            try:
                bus = await Bus.connect(self._url)
                await bus.ensure_stream()
                wait_s = 0.1
                await self._relay(bus)
            except (UnavailableError, OSError) as exc:
                _log.warning("relay.waiting", owner=self._owner, error=str(exc) or type(exc).__name__)
            except Exception:  # noqa: BLE001 - the border: events wait in the outbox, whatever the broker said
                _log.exception("relay.failed", owner=self._owner)
            await anyio.sleep(wait_s)
            wait_s = min(wait_s * 2, MAX_WAIT_S)

    async def _relay(self, bus: Bus) -> None:
        try:
            while True:
                if not await entries(self._redis, self._key, 1, BLOCK_MS):
                    continue
                await anyio.sleep(LINGER_S)
                gathered = await entries(self._redis, self._key, BATCH, BLOCK_MS)
                for _, fields in gathered:
                    await self._publish(bus, fields)
                if gathered:
                    await drop(self._redis, self._key, [entry_id for entry_id, _ in gathered])
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(2):
                await bus.close()

    async def _publish(self, bus: Bus, fields: dict[bytes, bytes]) -> None:
        envelope = envelope_decoder.decode(fields[b"envelope"])
        table = envelope.fields()
        kind, verb, _ = str(table["type"]).split(".")
        subject = subjects.subject(self._node, kind, str(table["id"]), verb)
        sequenced = envelope.__class__(
            **{name: getattr(envelope, name) for name in envelope.__struct_fields__ if name != "seq"},
            seq=int(fields[b"seq"]),
        )
        await bus.publish(subject, encoder.encode(sequenced), envelope.id, envelope.traceparent)
