"""Connections are accepted for as long as their service lives, whatever accept(2) says meanwhile."""

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import anyio

from common.observe.log import get_logger

AGAIN_S = 0.2
_log = get_logger("accepting")


async def accept(serve: Callable[[], Awaitable[Any]], where: str) -> NoReturn:
    """Accept until cancelled: out of descriptors, say, who waits is accepted later, and who is served stays served.

    Args:
        serve: what accepts, such as the `serve` of a listener; the tasks of its clients are to be in a group of their own,
            for it is called again after an error.
        where: the address, for the log.
    """
    while True:
        try:
            await serve()
        # the second is what a Unix listener of anyio raises
        except* (OSError, anyio.BrokenResourceError) as errors:
            first = errors.exceptions[0]
            _log.warning("accept.failed", address=where, error=str(first.__cause__ or first))
        await anyio.sleep(AGAIN_S)
