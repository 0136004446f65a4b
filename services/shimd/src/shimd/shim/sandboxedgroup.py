"""All processes of one exec in a kernel of its own, which only the runtime's command reaches.

The process and all that descend from it are stopped, so that nothing forks meanwhile, until a list shows no new one; then
they are killed. A daemon, whose parent ended before, cannot be told from the container's own processes and goes on.
"""

import os
import signal
from collections.abc import Callable

from shimd.shim.runtime import Outcome, Runtime

_CALL_S = 10.0
_ROUNDS = 8


class SandboxedGroup:
    """One exec: its child here waits for it, and ends with it."""

    def __init__(self, runtime: Runtime, container_id: str, pid: int, inner_pid: int) -> None:
        self._runtime = runtime
        self._container_id = container_id
        self._pid = pid
        self._first = {inner_pid}
        self._members = self._first
        self._asked = False
        self._rounds = 0
        self._waiting = 0

    def kill(self) -> int:
        """Have the processes killed; the answer is the end of the exec."""
        if not self._asked:
            self._asked = True
            self._signal(self._members, signal.SIGSTOP, self._look)
        return 0

    def release(self) -> None:
        """Nothing is kept."""

    def _look(self) -> None:
        self._rounds += 1
        self._runtime.call(["ps", self._container_id], self._listed, deadline_s=_CALL_S)

    def _listed(self, outcome: Outcome) -> None:
        new = descendants_listed(outcome.stdout.decode(errors="replace"), self._members)
        self._members = self._members | new
        if new and self._rounds < _ROUNDS:
            self._signal(new, signal.SIGSTOP, self._look)
        else:
            self._signal(self._members - self._first, signal.SIGKILL, self._kill_first)

    def _kill_first(self) -> None:
        """Last, because its end is the answer."""
        self._signal(self._first, signal.SIGKILL, self._end)

    def _end(self) -> None:
        """Our child ends with the exec by itself, unless the runtime's command does not work."""
        if not self._pid:
            return  # the runtime was killed before it told one
        try:
            os.kill(self._pid, signal.SIGKILL)  # its caller must not wait for ever
        except ProcessLookupError:
            return

    def _signal(self, pids: set[int], number: signal.Signals, then: Callable[[], None]) -> None:
        """Signal each, and go on when all have been; one that is gone is no trouble."""
        self._waiting = len(pids)
        if not pids:
            then()

        def done(_outcome: Outcome) -> None:
            self._waiting -= 1
            if not self._waiting:
                then()

        for pid in pids:
            args = ["kill", "--pid", str(pid), self._container_id, str(int(number))]
            self._runtime.call(args, done, deadline_s=_CALL_S)


def descendants_listed(table: str, roots: set[int]) -> set[int]:
    """The processes of a runtime's `ps` that descend from others of it, without those."""
    head, *rows = [line.split() for line in table.splitlines()] or [[]]
    if "PID" not in head or "PPID" not in head:
        return set()
    at, parent_at = head.index("PID"), head.index("PPID")
    parents = {int(row[at]): int(row[parent_at]) for row in rows if len(row) > max(at, parent_at)}
    found: set[int] = set()
    while new := {pid for pid, parent in parents.items() if parent in roots | found} - roots - found:
        found |= new
    return found
