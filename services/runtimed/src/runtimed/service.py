"""All use cases of runtimed, wired."""

from runtimed.use.checkpoint.checkpoints import Checkpoints
from runtimed.use.checkpoint.restores import Restores
from runtimed.use.container.containers import Containers
from runtimed.use.container.limits import Limits
from runtimed.use.exec.book import ExecBook
from runtimed.use.exec.execs import Execs
from runtimed.use.parts import Parts
from runtimed.use.reports.node import Node
from runtimed.use.reports.podmetrics import Metrics
from runtimed.use.reports.reasons import Reasons
from runtimed.use.reports.stats import Stats
from runtimed.use.reports.written import Written
from runtimed.use.sandbox.departures import Departures
from runtimed.use.sandbox.sandboxes import Sandboxes
from runtimed.use.task.holds import Holds
from runtimed.use.task.logs import Logs
from runtimed.use.task.signalling import Signals
from runtimed.use.task.tasks import Tasks


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
        self.logs = Logs(parts)
        self.signals = Signals(parts, self.holds)
        written = Written(parts.snapshots)
        self.stats = Stats(parts, written)
        self.checkpoints = Checkpoints(parts)
        self.restores = Restores(parts, self.sandboxes, self.containers)
        self.metrics = Metrics(parts, written)
        self.node = Node(parts)
        self.reasons = Reasons(parts, self.containers)
