"""What is known of all nodes, in memory: lists that nodes tell, changed by events, with their use over time.

A node's lists hold every change up to their time; an object that an event changed later keeps what the event said.
"""

from collections import deque
from collections.abc import Callable
from itertools import takewhile
from typing import Any

import anyio
import msgspec

from common.clock import now_ns
from common.events.schema import Envelope
from opsd.changes import change
from opsd.eventrow import event_row
from opsd.news import Container, Lists, Pod, Vitals

NS_PER_MS = 1_000_000
HISTORY = 60
"""Readings that are kept of each container and node."""
SILENT_AFTER = 3.5
"""Heartbeats that may be missed before a node is called silent."""
OVERLAP_MS = 2_000
"""An event so little older than lists may be missing in them: it is stamped before its change can be seen."""
FORGET_MS = 120_000
"""For how long it is remembered that an object was removed, so that older lists do not bring it back."""
MAX_NODES = 1_000


class Use:
    """The last readings of one container, the newest at the end, as pages draw them: nothing is copied to tell them."""

    __slots__ = ("cpu", "memory")

    def __init__(self) -> None:
        self.cpu: list[int] = []
        """Thousandths of a core."""
        self.memory: list[int] = []
        """Bytes."""

    def add(self, cpu: int, memory: int) -> None:
        """One more; the oldest goes."""
        if len(self.cpu) == HISTORY:
            del self.cpu[0], self.memory[0]
        self.cpu.append(cpu)
        self.memory.append(memory)


class NodeView:
    """One node as it was told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.vitals: Vitals | None = None
        self.heard_s = anyio.current_time()
        self.up = False
        self.pods: dict[str, Pod] = {}
        self.containers: dict[str, Container] = {}
        self.changed_ms: dict[str, float] = {}
        """When an event last changed an object, or removed it."""
        self.lists_at_ns = 0
        self.stale = True
        """Its lists have to be asked for."""
        self.cpu: deque[float] = deque(maxlen=HISTORY)
        self.memory: deque[float] = deque(maxlen=HISTORY)
        self.use: dict[str, Use] = {}
        self._latest: msgspec.Raw | None = None

    def beat(self, vitals: Vitals) -> None:
        """Take a heartbeat."""
        self.vitals, self.heard_s, self.up, self._latest = vitals, anyio.current_time(), True, None
        machine = vitals.machine
        self.cpu.append(machine.cpu)
        self.memory.append(machine.memory_used / machine.memory_total if machine.memory_total else 0)
        running = {each[0] for each in vitals.use}
        for gone in self.use.keys() - running - self.containers.keys():
            del self.use[gone]
        for container_id, cpu, memory in vitals.use:
            use = self.use.get(container_id)
            if use is None:
                use = self.use[container_id] = Use()
            use.add(cpu, memory)
        self.stale = self.stale or bool(running - self.containers.keys() - self.changed_ms.keys())

    @property
    def latest(self) -> msgspec.Raw:
        """The last reading of each container, encoded once for all pages."""
        if self._latest is None:
            self._latest = msgspec.Raw(msgspec.json.encode(self.vitals.use if self.vitals else []))
        return self._latest

    def shown(self) -> dict[str, Any]:
        """As pages have it."""
        vitals = self.vitals
        return {
            "name": self.name,
            "up": self.up,
            "heard": vitals.at_ns / NS_PER_MS if vitals else 0,
            "interval_s": vitals.interval_s if vitals else 0,
            "address": vitals.address if vitals else "",
            "machine": vitals.machine if vitals else None,
            "conditions": vitals.conditions if vitals else [],
            "pulls": vitals.pulls if vitals else [],
            "problem": vitals.problem if vitals else "",
            "cpu": [round(each, 3) for each in self.cpu],
            "memory": [round(each, 3) for each in self.memory],
        }


class Changes:
    """What has changed since it was last looked at; each page has one."""

    def __init__(self, max_events: int) -> None:
        self.objects: set[tuple[str, str]] = set()
        self.nodes: set[str] = set()
        self.used: set[str] = set()
        self.events: deque[msgspec.Raw] = deque(maxlen=max_events)
        self.missed = 0
        """Events that came faster than they were taken."""
        self.link = False
        self.woken = anyio.Event()


class Fleet:
    """The model; all methods are called in the event loop."""

    def __init__(self, max_events: int) -> None:
        self.nodes: dict[str, NodeView] = {}
        self.events: deque[tuple[int, msgspec.Raw]] = deque(maxlen=max_events)
        """With their sequence; encoded once, for all pages."""
        self.link: dict[str, Any] = {
            "connected": False,
            "since": now_ns() / NS_PER_MS,
            "error": "not tried yet",
        }
        """The connection to NATS."""
        self._pages: set[Changes] = set()

    def open(self, max_events: int) -> Changes:
        """Collect changes from now on; `close` ends it."""
        page = Changes(max_events)
        self._pages.add(page)
        return page

    def close(self, page: Changes) -> None:
        self._pages.discard(page)

    @property
    def pages(self) -> int:
        return len(self._pages)

    def node(self, name: str) -> NodeView:
        """The view of a node, which is made when it was not known."""
        view = self.nodes.get(name)
        if view is None:
            view = self.nodes[name] = NodeView(name)
        return view

    def _admits(self, name: str) -> bool:
        """Whether a node is known, or there is room for one more: who may write to NATS can call itself anything."""
        return name in self.nodes or len(self.nodes) < MAX_NODES

    def connected(self, *, yes: bool, error: str = "") -> None:
        """NATS answers, or not any more."""
        if yes != self.link["connected"]:
            self.link = {"connected": yes, "since": now_ns() / NS_PER_MS, "error": error}
        elif error != self.link["error"]:
            self.link = self.link | {"error": error}
        else:
            return
        if yes:
            for view in self.nodes.values():
                view.stale = True
        self._tell(lambda page: setattr(page, "link", True))

    def take_vitals(self, vitals: Vitals) -> None:
        """A heartbeat."""
        if not self._admits(vitals.node):
            return
        view = self.node(vitals.node)
        view.beat(vitals)

        def mark(page: Changes) -> None:
            page.nodes.add(view.name)
            page.used.add(view.name)

        self._tell(mark)

    def take_lists(self, lists: Lists) -> None:
        """All that a node has: what is not in it and was not changed since is gone."""
        view = self.node(lists.node)
        at_ms = lists.at_ns / NS_PER_MS
        # what changed much later than now, did so before the clock was set back
        view.changed_ms = {i: at for i, at in view.changed_ms.items() if abs(at - at_ms) < FORGET_MS}
        touched: set[str] = set()
        pods = {pod.id: pod for pod in lists.pods}
        containers = {container.id: container for container in lists.containers}
        for mine, found in ((view.pods, pods), (view.containers, containers)):
            touched |= _merge(mine, found, view, at_ms)
        view.lists_at_ns, view.stale = lists.at_ns, False
        self._touch(view.name, touched)

    def take_event(self, sequence: int, envelope: Envelope) -> None:
        """A lifecycle event."""
        if not self._admits(envelope.node):
            return
        row = event_row(sequence, envelope)
        view = self.node(envelope.node)
        if about := view.containers.get(row["id"]) or view.pods.get(row["id"]):
            row["name"] = about.name  # it may be gone when the event is looked at
        told = msgspec.Raw(msgspec.json.encode(row))
        self.events.append((sequence, told))
        event = envelope.decoded()
        at_ms = envelope.at_ns / NS_PER_MS
        known = at_ms + OVERLAP_MS < view.lists_at_ns / NS_PER_MS
        touched = change(view, event, at_ms) if event and not known else set()

        def mark(page: Changes) -> None:
            page.missed += len(page.events) == page.events.maxlen
            page.events.append(told)

        self._tell(mark)
        self._touch(view.name, touched)

    def look_for_silence(self) -> None:
        """To be called each second: nodes that are not heard of are not up."""
        now = anyio.current_time()
        for view in self.nodes.values():
            limit_s = SILENT_AFTER * (view.vitals.interval_s if view.vitals else 0)
            if view.up and now - view.heard_s > limit_s:
                view.up = False
                self._tell(lambda page, name=view.name: page.nodes.add(name))  # type: ignore[misc]

    def forget(self, silent_s: float, keep: str) -> list[str]:
        """Drop the nodes that were not heard of for so long, but for this one; returns their names."""
        now = anyio.current_time()
        names = [name for name, view in self.nodes.items() if name != keep and now - view.heard_s > silent_s]
        for name in names:
            view = self.nodes.pop(name)
            self._touch(name, {*view.containers, *view.pods})
            self._tell(lambda page, name=name: page.nodes.add(name))  # type: ignore[misc]
        return names

    def since(self, sequence: int) -> tuple[list[msgspec.Raw], bool]:
        """The events after this one and whether none between is missing; all that are held when it is not known."""
        if self.events and self.events[0][0] <= sequence + 1 and sequence <= self.events[-1][0]:
            later = takewhile(lambda each: each[0] > sequence, reversed(self.events))
            return [told for _, told in later][::-1], True
        return [told for _, told in self.events], False

    def named(self, object_id: str) -> list[tuple[str, str]]:
        """Node and whole id of each container and pod with this id, or one that begins so."""
        return [
            (view.name, known)
            for view in self.nodes.values()
            for known in (*view.containers, *view.pods)
            if known.startswith(object_id)
        ]

    def _touch(self, node: str, ids: set[str]) -> None:
        if ids:
            touched = {(node, each) for each in ids}
            self._tell(lambda page: page.objects.update(touched))

    def _tell(self, mark: Callable[[Changes], None]) -> None:
        for page in self._pages:
            mark(page)
            page.woken.set()


def _merge(mine: dict[str, Any], found: dict[str, Any], view: NodeView, at_ms: float) -> set[str]:
    touched: set[str] = set()
    for object_id, row in found.items():
        row.node = view.name
        if view.changed_ms.get(object_id, 0) > at_ms - OVERLAP_MS:
            continue
        if mine.get(object_id) != row:
            mine[object_id] = row
            touched.add(object_id)
    for object_id in mine.keys() - found.keys():
        if view.changed_ms.get(object_id, 0) <= at_ms - OVERLAP_MS:
            del mine[object_id]
            touched.add(object_id)
    return touched
