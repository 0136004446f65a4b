"""Names that one sandbox alone may have, as those of `run --name`: two that ask for one at once do not both get it."""

from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import AlreadyExistsError
from runtimed.record import SandboxRecord, SandboxState
from runtimed.use.parts import Parts


class SoleNames:
    """Claims of sandboxes that have no record yet; those of the others are in their records."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._claims: set[str] = set()

    @contextmanager
    def claim(self, record: SandboxRecord) -> Iterator[None]:
        """Hold a sandbox's name until its record is stored, if it is to be the only one of this name.

        Raises:
            AlreadyExistsError: another such sandbox has it, or is about to.
        """
        if not record.sole_name:
            yield
            return
        if record.name in self._claims:
            raise AlreadyExistsError(f"the name {record.name!r} is taken by a sandbox that is being made")
        for other in self._parts.sandboxes.store.all():
            if other.sole_name and other.name == record.name and self._is_there(other):
                raise AlreadyExistsError(f"the name {record.name!r} is taken by sandbox {other.id}")
        self._claims.add(record.name)
        try:
            yield
        finally:
            self._claims.discard(record.name)

    def _is_there(self, sandbox: SandboxRecord) -> bool:
        """What is stopped and empty is only left of one that could not be removed."""
        there = sandbox.state in (SandboxState.CREATING, SandboxState.READY)
        return there or bool(self._parts.containers_of(sandbox.id))
