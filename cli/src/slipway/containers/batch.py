"""One verb for several objects, as docker does it: one that fails does not keep the others from it."""

import sys
from collections.abc import Awaitable, Callable, Iterable

from common.errors import SlipwayError
from slipway.connect import Node, node
from slipway.output import render


async def each(run_dir: str, names: Iterable[str], act: Callable[[Node, str], Awaitable[object]]) -> int:
    """Act on each and print its name; returns 1 if one failed, with its error on stderr."""
    failed = 0
    async with node(run_dir) as on:
        for name in names:
            try:
                await act(on, name)
            except SlipwayError as exc:
                failed = 1
                sys.stderr.write(f"slipway: {render.complaint(exc)}\n")
            else:
                sys.stdout.write(f"{render.clean(name)}\n")
                sys.stdout.flush()
    return failed
