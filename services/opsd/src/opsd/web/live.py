"""The stream of changes that each open page has, as server-sent events.

state   everything: once, at the beginning
patch   what changed since: nodes, pods, containers, gone ids, use, events; at most 20 a second
"""

from collections.abc import AsyncGenerator
from typing import Any

import anyio
import msgspec

from common.clock import now_ns
from opsd.fleet import Changes, Fleet, NodeView

GATHER_S = 0.05
"""Between two patches: what comes by itself goes out at once, and what comes close behind together."""
QUIET_S = 10.0
"""A sign of life at least so often."""
MAX_EVENTS = 1_000
"""Of a page that does not keep up; it is told how many it missed."""
FIRST_EVENTS = 300
NS_PER_MS = 1_000_000


async def stream(fleet: Fleet, self_facts: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    """Server-sent events for one page, until it goes."""
    changes = fleet.open(MAX_EVENTS)
    sent_s = 0.0
    try:
        yield _event("state", state(fleet) | {"self": self_facts})
        while True:
            with anyio.move_on_after(QUIET_S) as quiet:
                await changes.woken.wait()
            if quiet.cancelled_caught:
                yield b": quiet\n\n"
                continue
            await anyio.sleep(max(0.0, sent_s + GATHER_S - anyio.current_time()))
            sent_s = anyio.current_time()
            yield _event("patch", take(fleet, changes))
    finally:
        fleet.close(changes)


def state(fleet: Fleet) -> dict[str, Any]:
    """All that a page shows at first."""
    views = sorted(fleet.nodes.values(), key=lambda view: view.name)
    return {
        "now": now_ns() / NS_PER_MS,
        "link": fleet.link,
        "nodes": [view.shown() for view in views],
        "pods": [pod for view in views for pod in view.pods.values()],
        "containers": [container for view in views for container in view.containers.values()],
        "use": {view.name: _histories(view) for view in views},
        "events": list(fleet.events)[-FIRST_EVENTS:],
    }


def take(fleet: Fleet, changes: Changes) -> dict[str, Any]:
    """What changed since the last time; the changes are empty afterwards."""
    objects, nodes, used = changes.objects, changes.nodes, changes.used
    found: dict[str, Any] = {"now": now_ns() / NS_PER_MS, "events": list(changes.events)}
    if changes.missed:
        found["missed"] = changes.missed
    if changes.link:
        found["link"] = fleet.link
    changes.objects, changes.nodes, changes.used = set(), set(), set()
    changes.events.clear()
    changes.missed, changes.link, changes.woken = 0, False, anyio.Event()
    found["nodes"] = [fleet.nodes[name].shown() for name in nodes]
    found["use"] = {name: _latest(fleet.nodes[name]) for name in used}
    found |= {"pods": [], "containers": [], "gone": []}
    for node, object_id in objects:
        view = fleet.nodes[node]
        if object_id in view.containers:
            found["containers"].append(view.containers[object_id])
        elif object_id in view.pods:
            found["pods"].append(view.pods[object_id])
        else:
            found["gone"].append(object_id)
    return {name: each for name, each in found.items() if each != []}


def _histories(view: NodeView) -> dict[str, tuple[list[int], list[int]]]:
    """Of each container: CPU in thousandths of a core, memory in bytes, the last at the end."""
    return {
        container_id: ([cpu for cpu, _ in history], [memory for _, memory in history])
        for container_id, history in view.use.items()
    }


def _latest(view: NodeView) -> list[tuple[str, int, int]]:
    return view.vitals.use if view.vitals else []


def _event(name: str, value: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(value) + b"\n\n"
