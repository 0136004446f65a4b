"""JetStream: the stream, publishing with de-duplication, and following."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import NamedTuple

import anyio
import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StorageType, StreamConfig

from common.errors import ResourceExhaustedError, UnavailableError
from common.events import subjects
from common.events.schema import Envelope, envelope_decoder
from common.settings import (
    EVENTS_MAX_AGE_S,
    EVENTS_MAX_BYTES,
    EVENTS_MAX_REPEATS,
    CommonSettings,
    without_secrets,
)

DEDUPE_S = 600.0
"""For how long JetStream recognises a repeated message id."""
MIN_BYTES = 16 << 20
"""Of the stream, on a disk with less room than is asked for; the server reserves all of it."""
_NO_ROOM = 10047
"""JSStorageResourcesExceededErr in nats-server's errors.json."""
_MADE_OTHERWISE = 10058
"""JSStreamNameExistErr there."""
_TOO_LARGE = (10054, 10097)
"""JSStreamMessageExceedsMaximumErr and JSStreamHeaderExceedsMaximumErr there."""
CONNECT_S = 2
END_S = 0.1
"""How long a cancelled task is waited for before it is cancelled again."""
PUBLISH_S = 5.0
_FRAME_BYTES = 16
"""Of the headers' first and last line, which count for the bound on a message, too."""
HELD_BATCH = 500
HELD_S = 30.0
"""After so long without a reader the server forgets a consumer."""


class Kept(NamedTuple):
    """What the stream keeps of the events of all nodes: the oldest go when a bound is passed."""

    max_bytes: int = EVENTS_MAX_BYTES
    max_age_s: float = EVENTS_MAX_AGE_S
    max_repeats: int = EVENTS_MAX_REPEATS
    """Of one subject: what repeats itself, as a probe does, must not push out what happens once."""

    @classmethod
    def of(cls, settings: CommonSettings) -> "Kept":
        return cls(settings.events_max_bytes, settings.events_max_age_s, settings.events_max_repeats)


class Bus:
    """A connection to NATS that keeps reconnecting; use `Bus.connect`."""

    def __init__(self, client: Client, lost: anyio.Event) -> None:
        self._client = client
        self.lost = lost
        """Set when the connection breaks, also when it is made again later."""
        self._stream: JetStreamContext = client.jetstream(timeout=PUBLISH_S)

    @classmethod
    async def connect(cls, url: str, *, attempts: int = -1) -> "Bus":
        """Connect to one of these servers; with `attempts` of -1, wait for one for ever.

        Raises:
            UnavailableError: no server answered.
        """
        lost = anyio.Event()

        async def disconnected() -> None:
            lost.set()

        try:
            client = await nats.connect(
                url.split(","),
                max_reconnect_attempts=attempts,
                reconnect_time_wait=0.25,
                connect_timeout=CONNECT_S,
                error_cb=_quiet,
                disconnected_cb=disconnected,
            )
        except (OSError, nats.errors.Error) as exc:
            message = f"NATS at {without_secrets(url)} does not answer: {exc}"
            raise UnavailableError(message) from exc
        return cls(client, lost)

    @property
    def connected(self) -> bool:
        return bool(self._client.is_connected)

    async def ensure_stream(self, kept: Kept | None = None) -> int:
        """Make the stream if it is not there, and give it these limits; without any, one that is there stays as it is.

        Where the disk has no room for so many bytes, it gets a half, or a quarter, and so on; returns how many it has.

        Raises:
            UnavailableError: NATS does not answer, has no JetStream, or no room.
        """
        with _answering(f"stream {subjects.STREAM}"):
            try:
                found = (await self._stream.stream_info(subjects.STREAM)).config
            except nats.js.errors.NotFoundError:
                try:
                    return await self._settle(self._stream.add_stream, _stream(), kept or Kept())
                except nats.js.errors.APIError as exc:
                    if exc.err_code != _MADE_OTHERWISE:
                        raise
                found = (await self._stream.stream_info(subjects.STREAM)).config  # somebody made it meanwhile
            has = (found.max_bytes, found.max_age, found.max_msgs_per_subject)
            if kept is None or has == kept:
                return found.max_bytes or 0
            return await self._settle(self._stream.update_stream, found, kept)

    async def _settle(
        self, settle: Callable[[StreamConfig], Awaitable[object]], config: StreamConfig, kept: Kept
    ) -> int:
        """Make or change a stream, with no more of it new than what is kept."""
        window_s, size = min(DEDUPE_S, kept.max_age_s), kept.max_bytes
        while True:
            wanted = config.evolve(
                max_age=kept.max_age_s,
                max_bytes=size,
                max_msgs_per_subject=kept.max_repeats,
                duplicate_window=window_s,
            )
            try:
                await settle(wanted)
            except nats.js.errors.APIError as exc:
                if exc.err_code != _NO_ROOM or size // 2 < MIN_BYTES:
                    raise
                size //= 2
            else:
                return size

    async def repeats(self) -> int:
        """How many events of one subject are kept; -1 for any number.

        Raises:
            UnavailableError: the stream does not answer.
        """
        with _answering(f"stream {subjects.STREAM}"):
            return (await self._stream.stream_info(subjects.STREAM)).config.max_msgs_per_subject or -1

    async def publish(self, subject: str, payload: bytes, message_id: str, traceparent: str) -> None:
        """Publish and wait for the stream's acknowledgement.

        Raises:
            ResourceExhaustedError: the server takes nothing of this size, also later.
            UnavailableError: the stream did not acknowledge in time.
        """
        headers = {"Nats-Msg-Id": message_id}
        if traceparent:
            headers["traceparent"] = traceparent
        size = len(payload) + sum(len(f"{key}: {value}\r\n".encode()) for key, value in headers.items())
        what = f"publish {subject}"
        if size + _FRAME_BYTES > self._client.max_payload:  # it would end the connection of who sends that
            raise ResourceExhaustedError(f"{what}: {size} bytes are more than NATS takes")
        with _answering(what):
            try:
                await self._stream.publish(subject, payload, timeout=PUBLISH_S, headers=headers)
            except nats.js.errors.APIError as exc:
                if exc.err_code in _TOO_LARGE:
                    raise ResourceExhaustedError(f"{what}: {exc.description}") from exc
                raise

    async def follow(self, pattern: str, since_ns: int | None) -> AsyncGenerator[Envelope, None]:
        """Events that match, from a time on (None: only new ones), for ever; raises as `follow_from`."""
        async for _, envelope in self.follow_from(pattern, since_ns=since_ns):
            yield envelope

    async def follow_from(
        self, pattern: str, *, since_ns: int | None = None, sequence: int | None = None
    ) -> AsyncGenerator[tuple[int, Envelope], None]:
        """Events that match with their sequence in the stream, for ever.

        Args:
            pattern: of their subjects.
            since_ns: from this time on; None for new ones only.
            sequence: from this one on, which wins over the time.

        Raises:
            UnavailableError: NATS does not answer, or has no JetStream.
        """
        with _answering(f"stream {subjects.STREAM}"):
            subscription = await self._stream.subscribe(
                pattern, stream=subjects.STREAM, config=_start(since_ns, sequence), ordered_consumer=True
            )
        try:
            async for message in subscription.messages:
                yield message.metadata.sequence.stream, envelope_decoder.decode(message.data)
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def held(
        self, patterns: str | Sequence[str], *, since_ns: int | None = None, sequence: int | None = None
    ) -> AsyncGenerator[tuple[int, Envelope], None]:
        """As `follow_from`, but ends with the last event that is held now; to be closed when it is left earlier.

        Several patterns must not overlap.

        Raises:
            UnavailableError: the stream does not answer.
        """
        config = _start(since_ns, sequence)
        async with self._reading(patterns, config) as (consumer, pending):
            left = pending
            while left:
                for message in await consumer.fetch(min(left, HELD_BATCH), timeout=PUBLISH_S):
                    left = min(left - 1, message.metadata.num_pending)
                    yield message.metadata.sequence.stream, envelope_decoder.decode(message.data)

    async def count(self, patterns: str | Sequence[str]) -> int:
        """How many events that match are held.

        Raises:
            UnavailableError: the stream does not answer.
        """
        async with self._reading(patterns, _start(None, 1)) as (_, left):
            return left

    @asynccontextmanager
    async def _reading(
        self, patterns: str | Sequence[str], config: ConsumerConfig
    ) -> AsyncIterator[tuple[JetStreamContext.PullSubscription, int]]:
        """A reader of the stream, and how many messages it has before it."""
        config.ack_policy = AckPolicy.NONE
        config.inactive_threshold = HELD_S
        pattern = patterns if isinstance(patterns, str) else ""
        config.filter_subjects = None if pattern else list(patterns)
        with _answering(f"read of stream {subjects.STREAM}"):
            consumer = await self._stream.pull_subscribe(pattern, stream=subjects.STREAM, config=config)
            try:
                yield consumer, (await consumer.consumer_info()).num_pending or 0
            finally:
                await consumer.unsubscribe()

    async def last_sequence(self) -> int:
        """The sequence of the newest event; 0 when there never was one.

        Raises:
            UnavailableError: the stream does not answer.
        """
        with _answering(f"stream {subjects.STREAM}"):
            return int((await self._stream.stream_info(subjects.STREAM)).state.last_seq)

    async def first(self, *, since_ns: int | None = None, sequence: int = 1) -> tuple[int, Envelope] | None:
        """The first event that is held, of those from a sequence on or a time, which wins; None when there is none.

        Raises:
            UnavailableError: the stream does not answer.
        """
        config = _start(since_ns, sequence if since_ns is None else None)
        async with self._reading(subjects.ALL, config) as (consumer, left):
            if not left:
                return None
            [message] = await consumer.fetch(1, timeout=PUBLISH_S)
            return message.metadata.sequence.stream, envelope_decoder.decode(message.data)

    async def tell(self, subject: str, payload: bytes) -> None:
        """Publish to whoever listens now; nothing is kept."""
        with suppress(nats.errors.Error, OSError):
            await self._client.publish(subject, payload)

    async def hear(self, subject: str) -> AsyncIterator[Msg]:
        """What is published to a subject, for ever; `respond` answers a question."""
        subscription = await self._client.subscribe(subject)
        try:
            async for message in subscription.messages:
                yield message
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def ask(self, subject: str, payload: bytes, within_s: float) -> bytes:
        """Ask whoever answers there.

        Raises:
            UnavailableError: nobody does, or not in time.
        """
        with _answering(subject):
            return bytes((await self._client.request(subject, payload, timeout=within_s)).data)

    async def close(self) -> None:
        with suppress(nats.errors.Error, TimeoutError):
            await self._client.close()
        # nats-py can miss the one cancellation that it sends to its own attempts to reconnect: they go on for ever
        task = self._client._reconnection_task  # noqa: SLF001 - there is no other way to end it
        while task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=END_S)


@contextmanager
def _answering(what: str) -> Iterator[None]:
    """Turn what the client says of NATS into UnavailableError."""
    try:
        yield
    except nats.js.errors.ServiceUnavailableError as exc:
        # with a code, it is JetStream that cannot answer
        why = str(exc) if exc.err_code else "NATS has no JetStream"
        raise UnavailableError(f"{what}: {why}") from exc
    except (OSError, TimeoutError, nats.errors.Error) as exc:
        raise UnavailableError(f"{what}: {str(exc) or 'no answer'}") from exc


def _stream() -> StreamConfig:
    return StreamConfig(name=subjects.STREAM, subjects=[subjects.ALL], storage=StorageType.FILE)


def _start(since_ns: int | None, sequence: int | None) -> ConsumerConfig:
    if sequence is not None:
        return ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=sequence)
    if since_ns is None:
        return ConsumerConfig(deliver_policy=DeliverPolicy.NEW)
    start = datetime.fromtimestamp(since_ns / 1e9, UTC).isoformat()
    return ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_TIME,
        opt_start_time=start,  # type: ignore[arg-type] # the server wants RFC 3339
    )


async def follow(
    nats_url: str,
    *,
    node: str = "*",
    kind: str = "*",
    object_id: str = "*",
    verb: str = "*",
    since_ns: int | None = None,
) -> AsyncGenerator[Envelope, None]:
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
