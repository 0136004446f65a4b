"""The one way in which runtimed changes a record: decide, write, then carry on with the instructions.

Each object has a lock, so what was decided on is what is changed. A transition is logged, and the last ones are
told when one is refused.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

import anyio
import msgspec

from common.errors import InvalidTransitionError
from common.observe.log import get_logger
from common.records import Record, RecordStore
from runtimed.machine.story import Step, Story

R = TypeVar("R", bound=Record)
_log = get_logger("runtimed")


class _Decide(Protocol):
    def __call__(self, record: Any, event: Any) -> tuple[Any, tuple[Any, ...]]: ...


class Transitions(Generic[R]):
    """The records of one kind and their state machine.

    Args:
        store: where they are kept.
        decide: the machine.
        noun: what logs call one.
    """

    def __init__(self, store: RecordStore[R], decide: _Decide, noun: str) -> None:
        self.store = store
        self._decide = decide
        self._noun = noun
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._stories: defaultdict[str, Story] = defaultdict(Story)
        self._watchers: defaultdict[str, anyio.Event] = defaultdict(anyio.Event)

    async def apply(self, key: str, event: Any) -> tuple[R, tuple[Any, ...]]:
        """Feed an event to a record's machine, and write the outcome with its lifecycle events.

        Raises:
            NotFoundError: there is no such record.
            InvalidTransitionError: refused; the message tells the object's story.
            UnavailableError: Redis is away; nothing was changed.
        """
        async with self._lock(key):
            old: Any = self.store.get(key)
            try:
                new, instructions = self._decide(old, event)
            except InvalidTransitionError as exc:
                story = str(self._stories[key])
                raise InvalidTransitionError(exc.message + (f" [{story}]" if story else "")) from exc
            if new is not old:
                facts = [i.event for i in instructions if hasattr(i, "event")]
                new = await self.store.update(key, lambda _: new, *facts)
                self._tell(key, old, new, event)
            return new, tuple(i for i in instructions if not hasattr(i, "event"))

    async def amend(self, key: str, *facts: Any, **changes: Any) -> R:
        """Change fields that are no matter of the machine."""
        async with self._lock(key):
            return await self.store.update(key, lambda r: msgspec.structs.replace(r, **changes), *facts)

    async def forget(self, key: str, *facts: Any) -> None:
        """Delete a record; idempotent."""
        async with self._lock(key):
            await self.store.delete(key, *facts)
        self._stories.pop(key, None)
        self._changed(key)

    async def until(self, key: str, met: Callable[[R], bool]) -> R | None:
        """Wait until a record is as wished; None when it is gone."""
        while (record := self.store.find(key)) is not None and not met(record):
            await self._watchers[key].wait()
        return record

    def _lock(self, key: str) -> anyio.Lock:
        """Of one object, for as long as somebody has it or waits for it."""
        return self._locks.setdefault(key, anyio.Lock())

    def _tell(self, key: str, old: Any, new: Any, event: Any) -> None:
        name = type(event).__name__
        self._stories[key].add(Step(str(old.state), str(new.state), name, event.cause))
        _log.info(
            f"{self._noun}.transition", id=key, before=str(old.state), after=str(new.state), cause=event.cause
        )
        self._changed(key)

    def _changed(self, key: str) -> None:
        watcher = self._watchers.pop(key, None)
        if watcher:
            watcher.set()
