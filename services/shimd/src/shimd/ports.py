"""What the service needs of the outside."""

from collections.abc import Sequence
from typing import Any, Protocol


class Forker(Protocol):
    """Forks shims and pause processes."""

    async def request(
        self, op: str, fds: Sequence[int] = (), *, timeout_s: float | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Do one operation of the zygote's: spawn, pause or bury; the descriptors stay the caller's to close.

        Without a time of its own it has the forker's.

        Raises:
            UnavailableError: no zygote could be started, or it died.
            DeadlineExceededError: it did not answer in time.
            UnknownError: it could not do it; the message says why.
        """
        ...
