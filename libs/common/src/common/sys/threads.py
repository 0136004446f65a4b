"""Work in a thread of its own, which ends afterwards.

A namespace is left by one thread only: a thread of a pool would carry what it entered into the next work.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_own_thread(work: Callable[[], T], name: str) -> T:
    """Run blocking work in a new thread; a cancelled caller leaves it running to its end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type] # T when there is no error
        else:
            future.set_exception(error)

    def body() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - carried to the caller
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, result, None)

    threading.Thread(target=body, name=name, daemon=True).start()
    return await future
