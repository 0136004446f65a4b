"""The life of a container.

::

               CreateDone            StartAsked             Started              Exited, Lost
    CREATING ─────────────▶ CREATED ────────────▶ STARTING ──────────▶ RUNNING ──────────────▶ EXITED
                               │                     │  StartFailed (128), Exited, Lost           ▲ │
                               │                     └──────────────────────────────────────────┘ │
                               └──────────────── RemoveAsked ──────────────▶ REMOVING ◀───────────┘
    STARTING, UNKNOWN ──NotStarted──▶ CREATED
    STARTING, RUNNING ──Silent──▶ UNKNOWN ──Started──▶ RUNNING                    └──▶ (no record)
                                     └──Exited, Lost──▶ EXITED
    RUNNING ──Paused──▶ PAUSED ──Resumed──▶ RUNNING; else PAUSED is as RUNNING
    EXITED ──StartAgainAsked──▶ STARTING

UNKNOWN: its shim lives and does not tell whether the init does. CREATING is not listed, STARTING is listed as CREATED, REMOVING as EXITED. An exit is taken once: a second one
changes nothing and says nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from common.errors import InvalidTransitionError
from common.events.schema import (
    ContainerCreated,
    ContainerExited,
    ContainerOomKilled,
    ContainerPaused,
    ContainerResumed,
    ContainerStarted,
    ContainerStartFailed,
    ContainerUnknown,
    Event,
)
from runtimed.evidence import Mark
from runtimed.record import ContainerRecord
from runtimed.record import ContainerState as S

START_ERROR_CODE = 128
LOST_CODE = 255


@dataclass(frozen=True, kw_only=True)
class CreateDone:
    """Snapshot and bundle are there; `facts` are the record's fields that the set-up found."""

    cause: str
    at_ns: int
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class StartAsked:
    """Somebody wants it to run."""

    cause: str


@dataclass(frozen=True, kw_only=True)
class StartAgainAsked:
    """Somebody wants it to run once more, although it has ended."""

    cause: str


@dataclass(frozen=True, kw_only=True)
class Started:
    """Its init runs."""

    cause: str
    pid: int
    pid_started_ticks: int
    at_ns: int
    socket_path: str


@dataclass(frozen=True, kw_only=True)
class StartFailed:
    """Its init could not be started."""

    cause: str
    message: str
    at_ns: int


@dataclass(frozen=True, kw_only=True)
class NotStarted:
    """Its start was cut off before there was an init."""

    cause: str


@dataclass(frozen=True, kw_only=True)
class Exited:
    """Its init ended; from the shim's exit record."""

    cause: str
    exit_code: int
    signal: int
    oom_killed: bool
    at_ns: int
    pid: int = 0
    started_at_ns: int = 0
    evidence: dict[str, Any] = field(default_factory=dict)
    """Fields of the record that tell why."""


@dataclass(frozen=True, kw_only=True)
class Silent:
    """Its init has ended, or was about to start, and its shim lives and does not tell."""

    cause: str


@dataclass(frozen=True, kw_only=True)
class Paused:
    """Its processes stand still."""

    cause: str


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """Its processes run again."""

    cause: str


@dataclass(frozen=True, kw_only=True)
class Lost:
    """Its init is gone and nobody knows how."""

    cause: str
    at_ns: int
    evidence: dict[str, Any] = field(default_factory=dict)
    """Fields of the record that tell why."""


@dataclass(frozen=True, kw_only=True)
class RemoveAsked:
    """Somebody wants it gone."""

    cause: str


ContainerEvent = (
    CreateDone
    | StartAsked
    | StartAgainAsked
    | Started
    | StartFailed
    | NotStarted
    | Exited
    | Silent
    | Paused
    | Resumed
    | Lost
    | RemoveAsked
)


@dataclass(frozen=True)
class Publish:
    """Tell the world, in the same step as the record."""

    event: Event


@dataclass(frozen=True)
class Spawn:
    """Start a shim and its container."""


@dataclass(frozen=True)
class Watch:
    """Follow the shim for the exit."""


@dataclass(frozen=True)
class Reap:
    """Let the shim go."""


@dataclass(frozen=True)
class Kill:
    """End the init now, then ask for the removal again."""


@dataclass(frozen=True)
class Clean:
    """Remove shim, bundle, snapshot and record."""


Instruction = Publish | Spawn | Watch | Reap | Kill | Clean
Outcome = tuple[ContainerRecord, tuple[Instruction, ...]]


def _replace(record: ContainerRecord, **changes: Any) -> ContainerRecord:
    return msgspec.structs.replace(record, **changes)


def _created(record: ContainerRecord, event: CreateDone) -> Outcome:
    at_ns = max(event.at_ns, record.created_at_ns)  # which is after the attempts before it
    made = _replace(record, state=S.CREATED, request=b"", created_at_ns=at_ns, **event.facts)
    fact = ContainerCreated(
        id=record.id,
        sandbox_id=record.sandbox_id,
        name=record.name,
        image=record.image,
        attempt=record.attempt,
    )
    return made, (Publish(fact),)


def _start(record: ContainerRecord, _event: StartAsked) -> Outcome:
    return _replace(record, state=S.STARTING), (Spawn(),)


def _start_again(record: ContainerRecord, _event: StartAgainAsked) -> Outcome:
    # nothing of the last run may be taken for this one's, but that it was
    ended = Mark(
        at_ns=record.finished_at_ns,
        what="ended",
        facts={"exit_code": record.exit_code, "reason": record.reason},
    )
    fresh = _replace(
        record,
        state=S.STARTING,
        started_at_ns=0,
        finished_at_ns=0,
        exit_code=0,
        signal=0,
        reason="",
        message="",
        pid=0,
        pid_started_ticks=0,
        from_checkpoint=False,
        marks=[*(mark for mark in record.marks if mark.what == "ended"), ended],
        memory={},
        pids={},
        dropped_bytes=0,
    )
    return fresh, (Spawn(),)


def _started(record: ContainerRecord, event: Started) -> Outcome:
    at_ns = max(event.at_ns, record.created_at_ns)
    running = _replace(
        record,
        state=S.RUNNING,
        pid=event.pid,
        pid_started_ticks=event.pid_started_ticks,
        started_at_ns=at_ns,
        socket_path=event.socket_path,
    )
    fact = ContainerStarted(id=record.id, sandbox_id=record.sandbox_id, pid=event.pid, started_at_ns=at_ns)
    return running, (Publish(fact), Watch())


def _start_failed(record: ContainerRecord, event: StartFailed) -> Outcome:
    at_ns = max(event.at_ns, record.created_at_ns)
    failed = _replace(
        record,
        state=S.EXITED,
        exit_code=START_ERROR_CODE,
        reason="StartError",
        message=event.message,
        started_at_ns=at_ns,
        finished_at_ns=at_ns,
    )
    fact = ContainerStartFailed(id=record.id, sandbox_id=record.sandbox_id, error=event.message)
    return failed, (Publish(fact), Reap())


def _not_started(record: ContainerRecord, _event: NotStarted) -> Outcome:
    return _replace(record, state=S.CREATED), ()


def _exited(record: ContainerRecord, event: Exited) -> Outcome:
    reason = "OOMKilled" if event.oom_killed else "Error" if event.exit_code else "Completed"
    changed, rest = _ended(record, reason, event)
    before: list[Instruction] = []
    if not record.started_at_ns and event.started_at_ns:  # of which nobody has heard
        fact = ContainerStarted(
            id=record.id, sandbox_id=record.sandbox_id, pid=event.pid, started_at_ns=changed.started_at_ns
        )
        before.append(Publish(fact))
    if event.oom_killed:
        before.append(Publish(ContainerOomKilled(id=record.id, sandbox_id=record.sandbox_id)))
    return changed, (*before, *rest)


def _silent(record: ContainerRecord, _event: Silent) -> Outcome:
    fact = ContainerUnknown(id=record.id, sandbox_id=record.sandbox_id)
    return _replace(record, state=S.UNKNOWN), (Publish(fact),)


def _paused(record: ContainerRecord, _event: Paused) -> Outcome:
    fact = ContainerPaused(id=record.id, sandbox_id=record.sandbox_id)
    return _replace(record, state=S.PAUSED), (Publish(fact),)


def _resumed(record: ContainerRecord, _event: Resumed) -> Outcome:
    fact = ContainerResumed(id=record.id, sandbox_id=record.sandbox_id)
    return _replace(record, state=S.RUNNING), (Publish(fact),)


def _lost(record: ContainerRecord, event: Lost) -> Outcome:
    unknown = Exited(
        cause=event.cause,
        exit_code=LOST_CODE,
        signal=0,
        oom_killed=False,
        at_ns=event.at_ns,
        evidence=event.evidence,
    )
    return _ended(record, "Unknown", unknown)


def _ended(record: ContainerRecord, reason: str, event: Exited) -> Outcome:
    # a clock that was set back must not make a container end before it began
    started = record.started_at_ns or max(event.started_at_ns, record.created_at_ns)
    finished = max(event.at_ns, started)
    ended = _replace(
        record,
        state=S.EXITED,
        exit_code=event.exit_code,
        signal=event.signal,
        reason=reason,
        started_at_ns=started,
        finished_at_ns=finished,
        **event.evidence,
    )
    fact = ContainerExited(
        id=record.id,
        sandbox_id=record.sandbox_id,
        exit_code=event.exit_code,
        reason=reason,
        signal=event.signal,
        finished_at_ns=finished,
    )
    return ended, (Publish(fact), Reap())


def _kill(record: ContainerRecord, _event: RemoveAsked) -> Outcome:
    return record, (Kill(),)


def _remove(record: ContainerRecord, _event: RemoveAsked) -> Outcome:
    return _replace(record, state=S.REMOVING), (Clean(),)


def _remove_again(record: ContainerRecord, _event: RemoveAsked) -> Outcome:
    return record, (Clean(),)


def _stay(record: ContainerRecord, _event: ContainerEvent) -> Outcome:
    return record, ()


TABLE: dict[tuple[S, type[ContainerEvent]], Callable[[ContainerRecord, Any], Outcome]] = {
    (S.CREATING, CreateDone): _created,
    (S.CREATING, RemoveAsked): _remove,
    (S.CREATED, StartAsked): _start,
    (S.CREATED, RemoveAsked): _remove,
    (S.STARTING, Started): _started,
    (S.STARTING, StartFailed): _start_failed,
    (S.STARTING, NotStarted): _not_started,
    (S.STARTING, Exited): _exited,
    (S.STARTING, Silent): _silent,
    (S.STARTING, Lost): _lost,
    (S.STARTING, RemoveAsked): _kill,
    (S.RUNNING, Started): _stay,
    (S.RUNNING, Exited): _exited,
    (S.RUNNING, Silent): _silent,
    (S.RUNNING, Lost): _lost,
    (S.RUNNING, RemoveAsked): _kill,
    (S.RUNNING, Paused): _paused,
    (S.RUNNING, Resumed): _stay,
    (S.PAUSED, Started): _stay,
    (S.PAUSED, Exited): _exited,
    (S.PAUSED, Silent): _silent,
    (S.PAUSED, Lost): _lost,
    (S.PAUSED, RemoveAsked): _kill,
    (S.PAUSED, Paused): _stay,
    (S.PAUSED, Resumed): _resumed,
    (S.EXITED, Started): _stay,
    (S.EXITED, StartFailed): _stay,
    (S.EXITED, Exited): _stay,
    (S.EXITED, Silent): _stay,
    (S.EXITED, Lost): _stay,
    (S.EXITED, RemoveAsked): _remove,
    (S.EXITED, StartAgainAsked): _start_again,
    (S.REMOVING, Exited): _stay,
    (S.REMOVING, Silent): _stay,
    (S.REMOVING, Lost): _stay,
    (S.REMOVING, RemoveAsked): _remove_again,
    (S.UNKNOWN, Started): _started,
    (S.UNKNOWN, NotStarted): _not_started,
    (S.UNKNOWN, Exited): _exited,
    (S.UNKNOWN, Silent): _stay,
    (S.UNKNOWN, Lost): _lost,
    (S.UNKNOWN, RemoveAsked): _kill,
}
"""What is not here is refused."""


def decide(record: ContainerRecord, event: ContainerEvent) -> Outcome:
    """The record after an event, and what is to be done about it.

    Raises:
        InvalidTransitionError: a container in this state does not take this event.
    """
    handler = TABLE.get((record.state, type(event)))
    if handler is None:
        raise InvalidTransitionError(f"container {record.id}: {type(event).__name__} while {record.state}")
    return handler(record, event)
