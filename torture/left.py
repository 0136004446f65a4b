"""What is left when every pod is gone; of some of it the node needs a moment to get rid."""

from functools import partial

import anyio
import anyio.to_thread
import grpc

from common.records.keys import outbox_key
from common.records.redis import backlog, connect
from devtools.cri import Cri
from tests.support.node import TestNode
from torture.again import Again
from torture.book import Book
from torture.samples import OWNERS

CLEAN_S = 30.0
LOOK_S = 0.2


async def relayed(node: TestNode, book: Book) -> None:
    """Wait until JetStream has every event."""
    redis = await connect(str(node.state["redis_url"]))
    waiting = [outbox_key(str(node.state["node"]), owner) for owner in OWNERS]
    try:
        with anyio.move_on_after(CLEAN_S) as scope:
            while sum([(await backlog(redis, key))[0] for key in waiting]):
                await anyio.sleep(LOOK_S)
    finally:
        await redis.aclose()
    if scope.cancelled_caught:
        book.lost(f"events wait in the outboxes after {CLEAN_S:g} s")


async def check(node: TestNode, cri: Cri, book: Book) -> None:
    """Remove what the workers could not, and see that nothing stays."""
    try:
        await Again()("remove all", partial(cri.remove_all))
    except (grpc.aio.AioRpcError, TimeoutError) as exc:
        book.lost(f"cannot be removed: {exc.details() if isinstance(exc, grpc.aio.AioRpcError) else exc}")
    with anyio.move_on_after(CLEAN_S):
        while any((await anyio.to_thread.run_sync(node.leftovers)).values()):
            await anyio.sleep(LOOK_S)
    for kind, names in node.leftovers().items():
        if names:
            book.lost(f"left: {len(names)} {kind}: {', '.join(names[:5])}")
    for difference in await node.differences():
        book.lost(f"checker: {difference}")
