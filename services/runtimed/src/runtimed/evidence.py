"""What is kept to tell later why something ended or did not start: marks of containers and the node, failed attempts.

Marks wait in memory until the container's record is written the next time, and are durable from then on.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

import msgspec

from common.clock import now_ns
from common.errors import shortened
from common.rpc import caller

CONTAINER, POD = "container", "pod"
MAX_MARKS = 24
MAX_NODE_MARKS = 32
MAX_EXECS = 5
MAX_FAILURES = 256
AROUND_NS = 300 * 1_000_000_000
"""Marks of the node count for what ends within this time after them, and pressure for as long as it lasts."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a container, or to the node it was on.

    `what` is stop, kill, signal, exec, pressure, node-pressure, shutdown, no-shim or ended (an earlier run of it);
    `facts` are those of runtimed.why.wording.
    """

    at_ns: int
    what: str
    actor: str = ""
    """Who asked for it; empty for the node itself."""
    facts: dict[str, Any] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An attempt to make a container or a pod, of which nothing is left but this."""

    kind: str
    name: str
    sandbox_id: str
    image: str
    error: str
    reason: str
    """Its class in common.errors; empty when it is not known."""
    actor: str
    at_ns: int
    count: int = 1


class Evidence:
    """The marks and failures of this node; bounded, the oldest go."""

    def __init__(self) -> None:
        self._marks: dict[str, deque[Mark]] = {}
        self._execs: dict[str, deque[Mark]] = {}
        self._node: deque[Mark] = deque(maxlen=MAX_NODE_MARKS)
        self._failures: OrderedDict[tuple[str, str, str], Failure] = OrderedDict()

    def add(self, container_id: str, what: str, **facts: Any) -> None:
        """Note what has just happened to a container, and who asked for it."""
        mark = Mark(at_ns=now_ns(), what=what, actor=caller.current.get(), facts=facts)
        self._marks.setdefault(container_id, deque(maxlen=MAX_MARKS)).append(mark)

    def add_exec(self, container_id: str, mark: Mark) -> None:
        """Note how a command in a container ended; the last few are kept."""
        self._execs.setdefault(container_id, deque(maxlen=MAX_EXECS)).append(mark)

    def add_node(self, **facts: Any) -> None:
        """Note a change of the node's pressure."""
        self._node.append(Mark(at_ns=now_ns(), what="node-pressure", facts=facts))

    def of(self, container_id: str, kept: list[Mark], until_ns: int = 0) -> list[Mark]:
        """All marks of a container, with what its record has kept and what the node went through lately, oldest first."""
        end_ns = until_ns or now_ns()
        before = [mark for mark in self._node if mark.at_ns <= end_ns]
        last = {mark.facts["resource"]: mark for mark in before}
        raised = {mark.facts["resource"] for mark in kept if mark.what == "node-pressure"}
        # pressure that lasts, or the end of what the record has
        present = [mark for name, mark in last.items() if mark.facts["raised"] or name in raised]
        node = [mark for mark in before if end_ns - AROUND_NS < mark.at_ns or mark in present]
        own = [*self._marks.get(container_id, ()), *self._execs.get(container_id, ())]
        known = {(mark.at_ns, mark.what) for mark in kept}
        new = [mark for mark in (*own, *node) if (mark.at_ns, mark.what) not in known]
        return sorted((*kept, *new), key=lambda mark: mark.at_ns)[-MAX_MARKS:]

    def forget(self, container_id: str) -> None:
        self._marks.pop(container_id, None)
        self._execs.pop(container_id, None)

    def fail(
        self, kind: str, name: str, error: str, *, reason: str = "", sandbox_id: str = "", image: str = ""
    ) -> bool:
        """Note a failed attempt; whether its error is new for this name. What the caller gave may be of any length."""
        name, image, error = shortened(name), shortened(image), shortened(error)
        key = (kind, sandbox_id, name or image)
        last = self._failures.pop(key, None)
        count = last.count + 1 if last else 1
        self._failures[key] = Failure(
            kind=kind,
            name=name,
            sandbox_id=sandbox_id,
            image=image,
            error=error,
            reason=reason,
            actor=caller.current.get(),
            at_ns=now_ns(),
            count=count,
        )
        while len(self._failures) > MAX_FAILURES:
            self._failures.popitem(last=False)
        return last is None or last.error != error

    def succeed(self, kind: str, name: str, *, sandbox_id: str = "", image: str = "") -> None:
        """An attempt of this name has gone well: what failed before, and pulls of its image, are of no interest."""
        for known in (name, image):
            self._failures.pop((kind, sandbox_id, shortened(known)), None)

    def failures(self, name: str = "", *, sandbox_id: str = "") -> list[Failure]:
        """The failed attempts of a name or in a sandbox, oldest first."""
        name, found = shortened(name), self._failures.values()
        return [f for f in found if (name and f.name == name) or (sandbox_id and f.sandbox_id == sandbox_id)]
