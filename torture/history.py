"""The history of events against what the workers did; that each is there once and in order, the checker says."""

from slipway.doctor.deep import history, recorded
from tests.support.node import TestNode
from torture.book import Book

STARTED, GONE = {"started", "exited"}, {"created", "removed"}


async def check(node: TestNode, book: Book) -> None:
    """Find the events that are missing of what the workers saw happen."""
    events = await recorded.history(str(node.state["nats_url"]), str(node.state["node"]))
    told = history.gather(events)
    for life in book.lives.values():
        wanted = (STARTED if life.started and not life.harm else set()) | (GONE if life.removed else set())
        verbs = told.verbs["container"].get(life.container_id, [])
        if missing := wanted - set(verbs):
            book.lost(f"{life.container_id[:12]}: no event {sorted(missing)} among {verbs}")
    for sandbox_id, name in book.sandboxes.items():
        verbs = told.verbs["sandbox"].get(sandbox_id, [])
        if missing := {"created", "ready", "removed"} - set(verbs):
            book.lost(f"{name}: no event {sorted(missing)} among {verbs}")
    book.count("events", len(events))
