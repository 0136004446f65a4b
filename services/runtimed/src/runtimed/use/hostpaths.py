"""Host paths that may not answer: a dead network filesystem costs a container its start, and nobody else anything.

A path is looked at in a thread, which cannot be killed: it stays until the kernel lets go of it. So a path that hung
once is not tried again before it has answered, and these threads have a pool of their own.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from common.errors import FailedPreconditionError
from common.sys.hostroot import HostRoot

ANSWER_S = 30.0
MAX_HUNG = 64


class _Look:
    """One thread that goes through some paths."""

    def __init__(self) -> None:
        self.at = ""
        """The path that it waits for; empty at the end."""

    def through(self, paths: Sequence[str], host: HostRoot) -> None:
        for path in paths:
            self.at = path
            with suppress(OSError):  # an answer, and said better by who uses the path
                Path(host.here(path)).stat()
        self.at = ""


class HostPaths:
    """The paths that hang, of all containers."""

    def __init__(self, host: HostRoot, answer_s: float = ANSWER_S) -> None:
        self._host = host
        self._answer_s = answer_s
        self._late: list[_Look] = []
        self._limiter: anyio.CapacityLimiter | None = None

    async def check(self, field: str, paths: Sequence[str]) -> None:
        """Returns when all paths have answered, be it that they are not there.

        Raises:
            FailedPreconditionError: one did not in time, or still does not since an earlier call.
        """
        if not paths:
            return
        self._late = [look for look in self._late if look.at]
        hung = {look.at for look in self._late}
        for path in paths:
            if path in hung:
                raise FailedPreconditionError(f"{field}: {path!r} still does not answer")
        if len(self._late) >= MAX_HUNG:
            raise FailedPreconditionError(f"{field}: {MAX_HUNG} host paths do not answer")
        look = _Look()
        limiter = self._limiter = self._limiter or anyio.CapacityLimiter(2 * MAX_HUNG)
        with anyio.move_on_after(self._answer_s) as scope:
            await anyio.to_thread.run_sync(
                partial(look.through, list(paths), self._host), abandon_on_cancel=True, limiter=limiter
            )
        if scope.cancelled_caught:
            self._late.append(look)
            raise FailedPreconditionError(
                f"{field}: {look.at!r} did not answer within {self._answer_s:.0f} s"
            )
