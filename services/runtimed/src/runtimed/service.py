"""All use cases of runtimed, wired."""

from runtimed.use.checkpoint import Checkpoints
from runtimed.use.container import Containers
from runtimed.use.departure import Departures
from runtimed.use.exec import Execs
from runtimed.use.execnews import ExecBook
from runtimed.use.hold import Holds
from runtimed.use.limits import Limits
from runtimed.use.metrics import Metrics
from runtimed.use.node import Node
from runtimed.use.parts import Parts
from runtimed.use.reasons import Reasons
from runtimed.use.restore import Restores
from runtimed.use.sandbox import Sandboxes
from runtimed.use.stats import Stats
from runtimed.use.task import Tasks


class Service:
    """What the servicer calls and the reconciler mends with."""

    def __init__(self, parts: Parts) -> None:
        book = ExecBook(parts.containers.store, parts.evidence)
        self.parts = parts
        self.holds = Holds(parts)
        self.tasks = Tasks(parts, book, self.holds)
        self.containers = Containers(parts, self.tasks)
        self.sandboxes = Sandboxes(parts, self.containers)
        self.departures = Departures(parts, self.sandboxes)
        self.execs = Execs(parts, book)
        self.limits = Limits(parts)
        self.stats = Stats(parts)
        self.checkpoints = Checkpoints(parts)
        self.restores = Restores(parts, self.sandboxes, self.containers)
        self.metrics = Metrics(parts)
        self.node = Node(parts)
        self.reasons = Reasons(parts, self.containers)
