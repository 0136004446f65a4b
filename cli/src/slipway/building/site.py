"""What the steps of a build work with."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from slipway.building.bases import Bases
from slipway.building.results import Results
from slipway.building.state import Wish
from slipway.building.worker import Worker
from slipway.connect import Node


@dataclass(frozen=True, slots=True)
class Site:
    """One build on one node."""

    on: Node
    worker: Worker
    wish: Wish
    bases: Bases
    results: Results
    origin: Callable[[str, int], Awaitable[str]]
    """The image that `from=` names: a stage before the one with this number, or any."""
