"""Finding records by id, unique id prefix and CRI filter."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError, NotFoundError
from common.records import RecordStore
from runtimed.record import ContainerRecord, Origin, SandboxRecord

T = TypeVar("T", SandboxRecord, ContainerRecord)
_HIDDEN = "creating"


def listed(store: RecordStore[T]) -> list[T]:
    """All but those whose set-up goes on, oldest first."""
    return sorted((r for r in store.all() if r.state != _HIDDEN), key=lambda r: r.created_at_ns)


def of_cri(records: Iterable[T]) -> list[T]:
    """Those that were made over CRI."""
    return [record for record in records if record.origin is Origin.CRI]


def find(store: RecordStore[T], noun: str, name: str) -> T:
    """The record with this id or unique id prefix.

    Raises:
        NotFoundError: there is none.
        InvalidArgumentError: the id is empty, or the prefix fits several.
    """
    if not name:
        raise InvalidArgumentError(f"{noun} id: is empty")
    exact = store.find(name)
    if exact is not None:
        return exact
    fitting = [record for record in store.all() if record.id.startswith(name) and record.state != _HIDDEN]
    if not fitting:
        raise NotFoundError(f"{noun} {name!r}: not found")
    if len(fitting) > 1:
        raise InvalidArgumentError(f"{noun} {name!r}: {len(fitting)} ids begin so")
    return fitting[0]


def find_or_none(store: RecordStore[T], noun: str, name: str) -> T | None:
    """As `find`, but None when there is none: stop and remove are idempotent."""
    try:
        return find(store, noun, name)
    except NotFoundError:
        return None


def with_labels(records: Iterable[T], selector: Mapping[str, str]) -> list[T]:
    """Those that have all these labels."""
    return [r for r in records if all(r.labels.get(key) == value for key, value in selector.items())]


def by_id(records: Iterable[T], prefix: str) -> list[T]:
    """Those whose id begins so; all for an empty prefix."""
    return [r for r in records if r.id.startswith(prefix)]


def fitting(
    records: Iterable[ContainerRecord], wanted: cri.ContainerFilter | cri.ContainerStatsFilter
) -> list[ContainerRecord]:
    """The containers that fit what both of CRI's filters have: id, sandbox and labels."""
    found = with_labels(by_id(records, wanted.id), wanted.label_selector)
    return [record for record in found if record.sandbox_id.startswith(wanted.pod_sandbox_id)]
