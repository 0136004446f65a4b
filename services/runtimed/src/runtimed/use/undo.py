"""Undoing steps: each is pushed before it is done, since it may half-succeed."""

from collections.abc import Awaitable, Callable

import anyio

from common.errors import UnavailableError
from common.observe.log import get_logger

_log = get_logger("runtimed")
Step = Callable[[], Awaitable[object]]


class Undo:
    """The way back, last step first. Unlike an exit stack it goes on after most failures and tells what is left.

    Args:
        timeout_s: the most that each undoing may take.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._steps: list[tuple[str, Step, bool]] = []
        self.may_pass = True
        """Whether all that could not be undone failed for something that was away."""

    def push(self, name: str, undo: Step, *, on_all_before: bool = False) -> None:
        """Add a step.

        Args:
            name: what is undone.
            undo: how.
            on_all_before: it needs what the steps before it made: where it fails, that stays for the next try.
        """
        self._steps.append((name, undo, on_all_before))

    async def run(self) -> list[str]:
        """Undo all, even while being cancelled; returns what could not be undone, with the reason."""
        left: list[str] = []
        while self._steps:
            name, undo, on_all_before = self._steps.pop()
            failed_before = len(left)
            with anyio.move_on_after(self._timeout_s, shield=True) as scope:
                try:
                    await undo()
                except Exception as exc:  # noqa: BLE001 - the way back goes on; the caller is told
                    _log.warning("undo.failed", step=name, error=str(exc))
                    left.append(f"{name} ({exc})")
                    self.may_pass = self.may_pass and isinstance(exc, UnavailableError)
            if scope.cancelled_caught:
                left.append(f"{name} (not within {self._timeout_s:.0f} s)")
            if on_all_before and len(left) > failed_before:
                self._steps.clear()
        return left
