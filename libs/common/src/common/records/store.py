"""A service's records of one kind: in memory for reading, in Redis for keeping, on disk as a copy.

The service is the only writer. A change is one Lua script: compare the revision, write the record and its
index, add the events to the outbox. So an event exists if and only if its change does.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
import msgspec
from redis.asyncio import Redis

from common.clock import now_ns
from common.errors import AbortedError, AlreadyExistsError, NotFoundError, SlipwayError, UnavailableError
from common.events.schema import Envelope, Event, NodeRecordCorrupt, NodeRepaired, encoder, minor
from common.observe.log import get_logger
from common.observe.trace import traceparent
from common.records import keys, script
from common.records import redis as reading
from common.settings import OUTBOX_MAX_BYTES
from common.sys.files import replace_file
from common.sys.threads import Together

RECORD_FILE = "record.msgpack"
GUARD_S = 60.0
_log = get_logger("records")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One object's state; extend it. `revision` grows by one with each change."""

    id: str
    revision: int = 0
    schema: int = 1


R = TypeVar("R", bound=Record)
EventSource = Event | Callable[[Any], Event]
"""An event, or what makes one from the record after the change."""


class RecordStore(Generic[R]):
    """Records of one kind.

    Args:
        redis: connection from `common.records.redis.connect`.
        cls: the record's class.
        node: this node.
        owner: the service.
        kind: the kind of record, one word.
        directory: keep a copy of each record in `<directory>/<id>/record.msgpack`, and rebuild from there
            what Redis has lost.
        sync_copies: force each copy to the disk. Without it a copy outlives any process, which is what a wiped
            Redis needs; after a power cut Redis' own log is what there is. Two fsyncs are 5 ms on a busy disk.
        outbox_max_bytes: what the service's events may take until NATS has them.
    """

    def __init__(
        self,
        redis: "Redis",
        cls: type[R],
        *,
        node: str,
        owner: str,
        kind: str,
        directory: Path | None = None,
        sync_copies: bool = True,
        outbox_max_bytes: int = OUTBOX_MAX_BYTES,
    ) -> None:
        self._redis = redis
        self._cls = cls
        self._node, self._owner, self._kind = node, owner, kind
        self._directory = directory
        self._sync_copies = sync_copies
        self._outbox_max_bytes = outbox_max_bytes
        self._records: dict[str, R] = {}
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._uncopied: set[str] = set()
        self._tell: list[Callable[[R, Sequence[Event]], None]] = []
        self._together = Together()
        self._script = script.TransitionScript(redis)
        self._decoder = msgspec.msgpack.Decoder(cls)

    async def load(self) -> list[str]:
        """Read all records; returns the ids of those that could not be read and were set aside.

        Raises:
            UnavailableError: Redis is away.
        """
        corrupt: list[str] = []
        kept = await self._read_redis(corrupt)
        copies = await anyio.to_thread.run_sync(self._read_copies, corrupt)
        self._records = kept
        for record_id, copy in copies.items():
            held = kept.get(record_id)
            if held is None or held.revision < copy.revision:
                what = f"a {self._kind}'s record that Redis had lost was restored from its copy"
                told = NodeRepaired(id=record_id, service=self._owner, what=what)
                await self._write(copy, held.revision if held else None, (told,))
                self._records[record_id] = copy
                _log.warning("record.restored", kind=self._kind, id=record_id)
        for record in kept.values():
            copied = copies.get(record.id)
            # a change was cut off, or its copy could not be written
            if copied is None or copied.revision < record.revision:
                await self._copy(record)
        for record_id in corrupt:
            await self.emit(
                NodeRecordCorrupt(id=record_id, service=self._owner, error=f"unreadable {self._kind}")
            )
        return corrupt

    async def mend(self) -> list[str]:
        """Write anew what Redis has lost while we ran; returns the ids.

        Raises:
            UnavailableError: Redis is away.
        """
        index = keys.index_key(self._node, self._owner, self._kind)
        there = {bytes(member).decode() for member in await reading.members(self._redis, index)}
        lost = []
        for record in self.all():
            held = await reading.revision(
                self._redis, keys.record_key(self._node, self._owner, self._kind, record.id)
            )
            async with self._lock(record.id):
                if self._records.get(record.id) is record and (
                    held < record.revision or record.id not in there
                ):
                    await self._write(record, held or None, ())
                    lost.append(record.id)
        return lost

    async def copy_again(self) -> None:
        """Write the copies that could not be written with their change, as on a full disk."""
        for key in list(self._uncopied):
            async with self._lock(key):
                record = self._records.get(key)
                if record:
                    await self._copy(record)
                else:
                    self._uncopied.discard(key)

    async def guard(self) -> None:
        """Mend every minute, with an event for what was mended; a long task."""
        while True:
            await anyio.sleep(GUARD_S)
            await self.copy_again()
            try:
                for record_id in await self.mend():
                    _log.warning("record.written_anew", kind=self._kind, id=record_id)
                    what = f"a {self._kind}'s record that Redis had lost was written anew"
                    await self.emit(NodeRepaired(id=record_id, service=self._owner, what=what))
            except UnavailableError as exc:
                _log.warning("records.unguarded", kind=self._kind, error=exc.message)

    def on_change(self, tell: Callable[[R, Sequence[Event]], None]) -> None:
        """Call this after each change that has events, once it is visible: the record, and what it put in the outbox.

        Of a record that is gone it is the last state. The calls come in the order of the changes.
        """
        self._tell.append(tell)

    def find(self, key: str) -> R | None:
        return self._records.get(key)

    def get(self, key: str) -> R:
        """The record of this id.

        Raises:
            NotFoundError: there is none.
        """
        record = self._records.get(key)
        if record is None:
            message = f"{self._kind} {key!r} not found"
            raise NotFoundError(message)
        return record

    def all(self) -> list[R]:
        return list(self._records.values())

    async def create(self, record: R, *events: EventSource) -> R:
        """Write a new record with its events; once begun it goes to its end, also when the caller is cancelled.

        Raises:
            AlreadyExistsError: the id is taken.
            UnavailableError: Redis is away; nothing was written.
        """
        async with self._lock(record.id):
            if record.id in self._records:
                message = f"{self._kind} {record.id!r} exists already"
                raise AlreadyExistsError(message)
            made = msgspec.structs.replace(record, revision=1)
            await self._put(made, None, _facts(made, events))
            return made

    async def update(self, key: str, fn: Callable[[R], R], *events: EventSource) -> R:
        """Change a record by a pure function, with the events of the change; to its end, as with `create`.

        Raises:
            NotFoundError: there is no such record.
            AbortedError: somebody else wrote this record.
            UnavailableError: Redis is away; nothing was written.
        """
        async with self._lock(key):
            old = self.get(key)
            new = msgspec.structs.replace(fn(old), revision=old.revision + 1)
            await self._put(new, old.revision, _facts(new, events))
            return new

    async def delete(self, key: str, *events: EventSource) -> None:
        """Remove a record with its events, to the end; nothing happens when it is gone already.

        Raises:
            UnavailableError: Redis is away; the record is as it was.
        """
        async with self._lock(key):
            old = self._records.get(key)
            if old is None:
                return
            with anyio.CancelScope(shield=True):
                await self._take(old, _facts(old, events))

    async def emit(self, *events: Event) -> None:
        """Put events into the outbox that belong to no record of this store."""
        for event in events:
            mark = f"emit:{event.id}"
            told: list[bytes | str] = [self._envelope(event, 0, mark), minor(event)]
            await self._transition(f"{mark}:{now_ns()}", "", "", b"", told)

    def _lock(self, key: str) -> anyio.Lock:
        """Of one record, for as long as somebody has it or waits for it."""
        return self._locks.setdefault(key, anyio.Lock())

    async def _put(self, record: R, expected: int | None, facts: Sequence[Event]) -> None:
        with anyio.CancelScope(shield=True):  # what Redis has, memory has
            await self._write(record, expected, facts)
            await self._copy(record)
            self._records[record.id] = record
            self._changed(record, facts)

    async def _take(self, record: R, facts: Sequence[Event]) -> None:
        if self._directory:
            await self._together.run(partial(self._drop_copy, record.id))
        envelopes = self._envelopes(record.revision + 1, facts)
        try:
            await self._transition(record.id, str(record.revision), "", b"", envelopes)
        except SlipwayError:
            await self._copy(record)  # it is still here
            raise
        self._records.pop(record.id, None)
        self._changed(record, facts)

    def _changed(self, record: R, facts: Sequence[Event]) -> None:
        for tell in self._tell if facts else ():
            tell(record, facts)

    async def _write(self, record: R, expected: int | None, facts: Sequence[Event]) -> None:
        envelopes = self._envelopes(record.revision, facts)
        was = "" if expected is None else str(expected)
        await self._transition(record.id, was, str(record.revision), encoder.encode(record), envelopes)

    async def _transition(self, key: str, was: str, now: str, body: bytes, told: list[bytes | str]) -> None:
        names = [
            keys.record_key(self._node, self._owner, self._kind, key),
            keys.index_key(self._node, self._owner, self._kind),
            keys.outbox_key(self._node, self._owner),
            keys.sequence_key(self._node, self._owner),
            keys.held_key(self._node, self._owner),
        ]
        told = [str(self._outbox_max_bytes), *told]
        answer = await self._script.run(names, [was, now, key, body, *told])
        if answer == script.DONE:
            return
        if was and 0 <= answer < int(was):
            # Redis lost the record or its last changes (wiped or cut short while we ran): memory is the truth
            found = str(answer) if answer else ""
            again = await self._script.run(names, [found, now, key, body, *told])
            if again == script.DONE:
                return
        if answer == script.EXISTS or answer == int(now or 0):
            # our own earlier attempt, whose answer was lost with the connection
            return
        message = f"{self._kind} {key!r}: another writer changed it"
        raise AbortedError(message)

    def _envelopes(self, revision: int, facts: Sequence[Event]) -> list[bytes | str]:
        told: list[bytes | str] = []
        for n, event in enumerate(facts):
            name = f"{event.id}:{revision}" + (f".{n}" if n else "")
            told += [self._envelope(event, revision, name), minor(event)]
        return told

    def _envelope(self, event: Event, revision: int, name: str) -> bytes:
        at_ns = now_ns()
        return encoder.encode(
            Envelope(
                # the time tells it from the same change of an object that had this id before
                id=f"{self._node}:{self._kind}:{name}:{at_ns}",
                at_ns=at_ns,
                node=self._node,
                source=self._owner,
                revision=revision,
                traceparent=traceparent(),
                event=msgspec.Raw(encoder.encode(event)),
            )
        )

    async def _read_redis(self, corrupt: list[str]) -> dict[str, R]:
        index = keys.index_key(self._node, self._owner, self._kind)
        ids = [bytes(m).decode() for m in await reading.members(self._redis, index)]
        names = [keys.record_key(self._node, self._owner, self._kind, each) for each in ids]
        bodies = await reading.bodies(self._redis, names)
        found: dict[str, R] = {}
        for record_id, body in zip(ids, bodies, strict=True):
            record = self._decode(record_id, body, corrupt)
            if record:
                found[record_id] = record
        return found

    def _decode(self, record_id: str, body: bytes, corrupt: list[str]) -> R | None:
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, msgspec.ValidationError) as exc:
            corrupt.append(record_id)
            _log.error("record.corrupt", kind=self._kind, id=record_id, error=str(exc))
            return None

    def _read_copies(self, corrupt: list[str]) -> dict[str, R]:
        if not self._directory or not self._directory.is_dir():
            return {}
        for directory in self._directory.iterdir():
            with suppress(OSError):  # of a record that an earlier life could not finish
                directory.rmdir()
        found: dict[str, R] = {}
        for path in self._directory.glob(f"*/{RECORD_FILE}"):
            record = self._decode(path.parent.name, path.read_bytes(), corrupt)
            if record is None:
                path.rename(path.with_suffix(".corrupt"))
            else:
                found[record.id] = record
        return found

    async def _copy(self, record: R) -> None:
        """Write the copy; one that cannot be written does not undo what Redis has, and is tried again."""
        if self._directory is None:
            return
        path = self._directory / record.id / RECORD_FILE
        write = partial(replace_file, path, encoder.encode(record), sync=self._sync_copies)
        try:
            if self._sync_copies:
                await anyio.to_thread.run_sync(write)  # the filesystem puts those of several threads together
            else:
                await self._together.run(write)
            self._uncopied.discard(record.id)
        except OSError as exc:
            self._uncopied.add(record.id)
            _log.warning("record.uncopied", kind=self._kind, id=record.id, error=str(exc))

    def _drop_copy(self, key: str) -> None:
        if self._directory:
            (self._directory / key / RECORD_FILE).unlink(missing_ok=True)
            with suppress(OSError):  # its owner keeps more there, and removes that itself
                (self._directory / key).rmdir()


def _facts(record: Any, events: Sequence[EventSource]) -> list[Event]:
    return [event if isinstance(event, Event) else event(record) for event in events]
