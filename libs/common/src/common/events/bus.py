"""JetStream: the stream, publishing with de-duplication, and following."""

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy, StorageType, StreamConfig

from common.errors import UnavailableError
from common.events import subjects
from common.events.schema import Envelope, envelope_decoder
from common.settings import without_secrets

DEDUPE_S = 600.0
"""For how long JetStream recognises a repeated message id."""
MAX_AGE_S = 7 * 86400.0
MAX_BYTES = 1 << 30
CONNECT_S = 2
PUBLISH_S = 5.0


class Bus:
    """A connection to NATS that keeps reconnecting; use `Bus.connect`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stream: JetStreamContext = client.jetstream(timeout=PUBLISH_S)

    @classmethod
    async def connect(cls, url: str, *, attempts: int = -1) -> "Bus":
        """Connect; with `attempts` of -1, wait for the server for ever.

        Raises:
            UnavailableError: no server answered.
        """
        try:
            client = await nats.connect(
                url,
                max_reconnect_attempts=attempts,
                reconnect_time_wait=0.25,
                connect_timeout=CONNECT_S,
                error_cb=_quiet,
            )
        except (OSError, nats.errors.Error) as exc:
            message = f"NATS at {without_secrets(url)} does not answer: {exc}"
            raise UnavailableError(message) from exc
        return cls(client)

    @property
    def connected(self) -> bool:
        return bool(self._client.is_connected)

    async def ensure_stream(self) -> None:
        """Make the stream if it is not there, and give one of an older version today's limits."""
        config = StreamConfig(
            name=subjects.STREAM,
            subjects=[subjects.ALL],
            storage=StorageType.FILE,
            duplicate_window=DEDUPE_S,
            max_age=MAX_AGE_S,
            max_bytes=MAX_BYTES,
        )
        try:
            found = (await self._stream.stream_info(subjects.STREAM)).config
            if (found.max_age, found.max_bytes) != (MAX_AGE_S, MAX_BYTES):
                await self._stream.update_stream(config)
        except nats.js.errors.NotFoundError:
            await self._stream.add_stream(config)

    async def publish(self, subject: str, payload: bytes, message_id: str, traceparent: str) -> None:
        """Publish and wait for the stream's acknowledgement.

        Raises:
            UnavailableError: the stream did not acknowledge in time.
        """
        headers = {"Nats-Msg-Id": message_id}
        if traceparent:
            headers["traceparent"] = traceparent
        try:
            await self._stream.publish(subject, payload, timeout=PUBLISH_S, headers=headers)
        except (OSError, TimeoutError, nats.errors.Error) as exc:
            message = f"publish {subject}: {exc}"
            raise UnavailableError(message) from exc

    async def follow(self, pattern: str, since_ns: int | None) -> AsyncIterator[Envelope]:
        """Events that match, from a time on (None: only new ones), for ever."""
        config = ConsumerConfig(deliver_policy=DeliverPolicy.NEW)
        if since_ns is not None:
            start = datetime.fromtimestamp(since_ns / 1e9, UTC).isoformat()
            config = ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_TIME,
                opt_start_time=start,  # type: ignore[arg-type] # the server wants RFC 3339
            )
        subscription = await self._stream.subscribe(
            pattern, stream=subjects.STREAM, config=config, ordered_consumer=True
        )
        try:
            async for message in subscription.messages:
                yield envelope_decoder.decode(message.data)
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def close(self) -> None:
        with suppress(nats.errors.Error, TimeoutError):
            await self._client.close()


async def follow(
    nats_url: str,
    *,
    node: str = "*",
    kind: str = "*",
    object_id: str = "*",
    verb: str = "*",
    since_ns: int | None = None,
) -> AsyncIterator[Envelope]:
    """Follow the events of a NATS cluster; the connection lives as long as the iteration."""
    bus = await Bus.connect(nats_url, attempts=8)
    try:
        await bus.ensure_stream()
        async for envelope in bus.follow(subjects.pattern(node, kind, object_id, verb), since_ns):
            yield envelope
    finally:
        await bus.close()


async def _quiet(_exc: Exception) -> None:
    """Reconnecting is nats-py's business, and the relay logs what it cannot publish."""
