"""Blocking work on the network in a thread, which the cancellation of its caller ends."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import anyio
import anyio.to_thread
import urllib3
from anyio import CapacityLimiter
from urllib3.exceptions import HTTPError

T = TypeVar("T")


class Stop:
    """Ends the blocking work of one thread from outside."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self._lock = threading.Lock()
        self._open: urllib3.BaseHTTPResponse | None = None
        self._left = threading.Event()
        self._left.set()

    def set(self) -> None:
        """Wake the waits and cut the connection; safe from any thread."""
        with self._lock:
            self._set.set()
            if self._open is not None:
                with suppress(ValueError, RuntimeError, OSError):
                    self._open.shutdown()

    def is_set(self) -> bool:
        return self._set.is_set()

    def wait(self, seconds: float) -> None:
        self._set.wait(seconds)

    def attach(self, response: urllib3.BaseHTTPResponse) -> None:
        """From here to `detach` the thread passes an answer on.

        Raises:
            HTTPError: it was stopped; the answer is of no use.
        """
        with self._lock:
            if self._set.is_set():
                response.close()
                raise HTTPError("was stopped")
            self._open = response
            self._left.clear()

    def detach(self) -> None:
        with self._lock:
            self._open = None
            self._left.set()

    def wait_detached(self) -> None:
        """Wait until nothing is passed on; once stopped, that stays so."""
        self._left.wait()


async def interruptible(work: Callable[[Stop], T], limiter: CapacityLimiter) -> T:
    """Run blocking work in a thread.

    When the caller is cancelled, an answer that is under way is cut and what its thread does with it is waited for.
    A thread that waits for a connection or for the beginning of an answer is left to end by its own timeouts.

    Args:
        work: heeds its argument.
        limiter: of threads.
    """
    stop = Stop()

    def carried() -> T | Exception:
        try:
            return work(stop)
        except Exception as exc:  # noqa: BLE001 - carried to the caller, who raises it
            return exc

    try:
        answer = await anyio.to_thread.run_sync(carried, limiter=limiter, abandon_on_cancel=True)
    except anyio.get_cancelled_exc_class():
        stop.set()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(stop.wait_detached)
        raise
    if isinstance(answer, Exception):
        raise answer
    return answer
