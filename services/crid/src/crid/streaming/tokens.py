"""One-time tokens: what Exec, Attach and PortForward were asked, until the URL is opened."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from common.api.cri.v1 import api_pb2 as cri
from common.errors import ResourceExhaustedError

LIFE_S = 60.0
BOUND = 1000
Wish = cri.ExecRequest | cri.AttachRequest | cri.PortForwardRequest


class Tokens:
    """Requests by token; each is taken once, and gone after `LIFE_S`."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._held: OrderedDict[str, tuple[float, Wish]] = OrderedDict()

    def issue(self, wish: Wish) -> str:
        """A token for a checked request.

        Raises:
            ResourceExhaustedError: too many are outstanding.
        """
        self._drop_old()
        if len(self._held) >= BOUND:
            raise ResourceExhaustedError(
                f"streaming: {BOUND} URLs wait to be opened; each is given up after {LIFE_S:g} s"
            )
        token = secrets.token_urlsafe(16)
        self._held[token] = self._now() + LIFE_S, wish
        return token

    def take(self, token: str) -> Wish | None:
        """The request of a token, once; None when it is unknown, used or too old."""
        self._drop_old()
        return self._held.pop(token, (0.0, None))[1]

    def _drop_old(self) -> None:
        now = self._now()
        while self._held and next(iter(self._held.values()))[0] <= now:
            self._held.popitem(last=False)
