"""The stream of changes that each open page has, as server-sent events.

state   everything: once, at the beginning; a page that comes again says the last event that it has, and gets those after it
patch   what changed since: nodes, pods, containers, gone ids, use, events; at most 20 a second

A page that does not keep up costs its set of changed ids and MAX_EVENTS events, and is told how many it missed; one that
takes nothing at all is left by the server, and comes again by itself.
"""

from collections.abc import AsyncGenerator, Iterable
from itertools import islice
from typing import Any

import anyio
import msgspec

from common.clock import now_ns
from common.turns import Turns
from opsd.fleet import Changes, Fleet

GATHER_S = 0.05
"""Between two patches: what comes by itself goes out at once, and what comes close behind together."""
QUIET_S = 10.0
"""A sign of life at least so often."""
MAX_EVENTS = 1_000
"""That wait for one page."""
FIRST_EVENTS = 300
CHUNK = 50
"""Rows that are encoded in one go."""
NS_PER_MS = 1_000_000


async def stream(fleet: Fleet, self_facts: dict[str, Any], after: int) -> AsyncGenerator[bytes, None]:
    """Server-sent events for one page, until it goes; `after` is the last event that it has, 0 for none."""
    changes = fleet.open(MAX_EVENTS)
    sent_s = 0.0
    try:
        yield b"event: state\ndata: "
        async for piece in state(fleet, self_facts, after):
            yield piece
        yield b"\n\n"
        while True:
            with anyio.move_on_after(QUIET_S) as quiet:
                await changes.woken.wait()
            if quiet.cancelled_caught:
                yield b": quiet\n\n"
                continue
            await anyio.sleep(max(0.0, sent_s + GATHER_S - anyio.current_time()))
            sent_s = anyio.current_time()
            yield b"event: patch\ndata: " + msgspec.json.encode(take(fleet, changes)) + b"\n\n"
    finally:
        fleet.close(changes)


async def state(fleet: Fleet, self_facts: dict[str, Any], after: int = 0) -> AsyncGenerator[bytes, None]:
    """All that a page shows at first: the pieces of one JSON object. What changes meanwhile is in the next patch."""
    views = sorted(fleet.nodes.values(), key=lambda view: view.name)
    events, resumed = fleet.since(after)
    head = {
        "now": now_ns() / NS_PER_MS,
        "self": self_facts,
        "link": fleet.link,
        "resumed": resumed,
        "events": events if resumed else events[-FIRST_EVENTS:],
    }
    rows = {
        "nodes": (view.shown() for view in views),
        "pods": [pod for view in views for pod in view.pods.values()],
        "containers": [container for view in views for container in view.containers.values()],
        "use": [(each, use.cpu, use.memory) for view in views for each, use in view.use.items()],
    }
    turns = Turns()
    yield msgspec.json.encode(head)[:-1]
    for name, each in rows.items():
        yield b',"' + name.encode() + b'":['
        async for piece in _listed(each, turns):
            yield piece
        yield b"]"
    yield b"}"


async def _listed(rows: Iterable[Any], turns: Turns) -> AsyncGenerator[bytes, None]:
    between, left = b"", iter(rows)
    while chunk := list(islice(left, CHUNK)):
        yield between + msgspec.json.encode(chunk)[1:-1]
        between = b","
        await turns.give()


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
    found["nodes"] = [fleet.nodes[name].shown() for name in nodes if name in fleet.nodes]
    found["forgotten"] = [name for name in nodes if name not in fleet.nodes]
    found["use"] = [fleet.nodes[name].latest for name in used if name in fleet.nodes]
    found |= {"pods": [], "containers": [], "gone": []}
    for node, object_id in objects:
        view = fleet.nodes.get(node)
        if view and object_id in view.containers:
            found["containers"].append(view.containers[object_id])
        elif view and object_id in view.pods:
            found["pods"].append(view.pods[object_id])
        else:
            found["gone"].append(object_id)
    return {name: each for name, each in found.items() if each != []}
