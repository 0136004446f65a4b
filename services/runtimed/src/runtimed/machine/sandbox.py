"""The life of a sandbox.

::

                 SetupDone              StopAsked, Broken
    CREATING ───────────────▶ READY ───────────────────────▶ NOTREADY ◀─┐ StopAsked
       │                                                        │  └────┘
       │ SetupFailed                                            │ RemoveAsked
       └──────────────────────▶ NOTREADY, listed until undone   ▼
                                                             REMOVING ──▶ (no record)

CREATING is not listed; REMOVING is listed as NOTREADY. A set-up that was wholly undone leaves no record, so it
needs no state.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from common.errors import InvalidTransitionError
from common.events.schema import Event, SandboxFailed, SandboxReady, SandboxStopped
from runtimed.record import SandboxRecord
from runtimed.record import SandboxState as S

NS_PER_MS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class SetupDone:
    """All steps are done."""

    cause: str
    at_ns: int
    boot_id: str
    ips: list[str]
    cni_result: bytes
    namespaces: dict[str, str]
    pause_pid: int


@dataclass(frozen=True, kw_only=True)
class SetupFailed:
    """A step failed, and not all before it could be undone."""

    cause: str
    error: str


@dataclass(frozen=True, kw_only=True)
class StopAsked:
    """Somebody wants it stopped."""

    cause: str


@dataclass(frozen=True, kw_only=True)
class Broken:
    """The machine lost its namespaces, as a reboot does."""

    cause: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RemoveAsked:
    """Somebody wants it gone."""

    cause: str


SandboxEvent = SetupDone | SetupFailed | StopAsked | Broken | RemoveAsked


@dataclass(frozen=True)
class Publish:
    """Tell the world, in the same step as the record."""

    event: Event


@dataclass(frozen=True)
class TearDown:
    """Stop its containers and release its network and namespaces."""


@dataclass(frozen=True)
class Clean:
    """Remove its containers, directories and record."""


Instruction = Publish | TearDown | Clean
Outcome = tuple[SandboxRecord, tuple[Instruction, ...]]


def _replace(record: SandboxRecord, **changes: Any) -> SandboxRecord:
    return msgspec.structs.replace(record, **changes)


def _ready(record: SandboxRecord, event: SetupDone) -> Outcome:
    ready = _replace(
        record,
        state=S.READY,
        ready_at_ns=max(event.at_ns, record.created_at_ns),
        boot_id=event.boot_id,
        ips=event.ips,
        cni_result=event.cni_result,
        namespaces=event.namespaces,
        pause_pid=event.pause_pid,
    )
    took_ms = max(0, event.at_ns - record.created_at_ns) // NS_PER_MS
    return ready, (Publish(SandboxReady(id=record.id, ips=event.ips, duration_ms=took_ms)),)


def _failed(record: SandboxRecord, event: SetupFailed) -> Outcome:
    failed = _replace(record, state=S.NOTREADY, error=event.error)
    return failed, (Publish(SandboxFailed(id=record.id, error=event.error)),)


def _stop(record: SandboxRecord, _event: StopAsked) -> Outcome:
    return _replace(record, state=S.NOTREADY), (
        Publish(SandboxStopped(id=record.id, reason="stop")),
        TearDown(),
    )


def _stop_again(record: SandboxRecord, _event: StopAsked) -> Outcome:
    return record, (TearDown(),)


def _broken(record: SandboxRecord, event: Broken) -> Outcome:
    broken = _replace(record, state=S.NOTREADY, pause_pid=0)
    return broken, (Publish(SandboxStopped(id=record.id, reason=event.reason)),)


def _remove(record: SandboxRecord, _event: RemoveAsked) -> Outcome:
    return _replace(record, state=S.REMOVING), (Clean(),)


def _remove_again(record: SandboxRecord, _event: RemoveAsked) -> Outcome:
    return record, (Clean(),)


def _stay(record: SandboxRecord, _event: SandboxEvent) -> Outcome:
    return record, ()


TABLE: dict[tuple[S, type[SandboxEvent]], Callable[[SandboxRecord, Any], Outcome]] = {
    (S.CREATING, SetupDone): _ready,
    (S.CREATING, SetupFailed): _failed,
    (S.READY, StopAsked): _stop,
    (S.READY, Broken): _broken,
    (S.NOTREADY, StopAsked): _stop_again,
    (S.NOTREADY, Broken): _stay,
    (S.NOTREADY, RemoveAsked): _remove,
    (S.REMOVING, StopAsked): _stop_again,
    (S.REMOVING, Broken): _stay,
    (S.REMOVING, RemoveAsked): _remove_again,
}
"""What is not here is refused."""


def decide(record: SandboxRecord, event: SandboxEvent) -> Outcome:
    """The record after an event, and what is to be done about it.

    Raises:
        InvalidTransitionError: a sandbox in this state does not take this event.
    """
    handler = TABLE.get((record.state, type(event)))
    if handler is None:
        raise InvalidTransitionError(f"sandbox {record.id}: {type(event).__name__} while {record.state}")
    return handler(record, event)
