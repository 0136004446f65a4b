"""The deep look at one node: what does not fit and stays so; for `slipway doctor --deep`, and for whoever tests a node."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from slipway.doctor.deep import compare, history, inventory, recorded
from slipway.doctor.deep.difference import Difference
from slipway.doctor.settings import cni_dir

SETTLE_S = 10.0
AGAIN_S = 0.5


async def differences(
    facts: dict[str, Any], *, settle_s: float = SETTLE_S, but: Collection[str] = ()
) -> list[Difference]:
    """What does not fit, by the facts that the node's supervisor has written down.

    A node at work is never at rest: what fits at one of several looks within `settle_s` is in order.

    Args:
        facts: node.json.
        settle_s: the longest that what does not fit may take to.
        but: kinds that are not told.

    Raises:
        UnavailableError: Redis or NATS is away.
    """
    found = [one for one in await _look(facts) if one.kind not in but]
    with anyio.move_on_after(settle_s):
        while any(not one.passing for one in found):
            await anyio.sleep(AGAIN_S)
            now = set(await _look(facts))
            found = [one for one in found if one in now]
    return found


async def _look(facts: dict[str, Any]) -> list[Difference]:
    run_dir, name = str(facts["run_dir"]), str(facts["node"])
    # records first and last: what was made or removed between them says nothing
    said = await recorded.read(str(facts["redis_url"]), name)
    url = str(facts["nats_url"])
    told = history.gather(await recorded.history(url, name), await recorded.repeats(url))
    has = await anyio.to_thread.run_sync(
        inventory.take, Path(run_dir), Path(str(facts["data_dir"])), Path(cni_dir(facts))
    )
    found = await anyio.to_thread.run_sync(_compare, compare.Node(run_dir, has, said, told))
    if not said.waiting:
        found += history.against_records(told, said.records)
    return sorted(set(found + told.differences))


def _compare(node: compare.Node) -> list[Difference]:
    return [one for rule in compare.RULES for one in rule(node)]
