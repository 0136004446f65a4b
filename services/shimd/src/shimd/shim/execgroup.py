"""All processes of one exec, so that none of them outlives its timeout.

On cgroup v1 they live in a sub-cgroup of the container's. On v2 an exec stays in the container's own, as under other
runtimes: it finds its limits there, and whoever watches cgroups sees one. There the sub-cgroup is made when they are to be
killed, for what is found by then, so that no fork escapes.

A process belongs to the group by that cgroup; by its timer slack, which a fork hands on, and which is some nanoseconds
more for each exec than the usual; by descent; by session (the runtime makes an exec's process a session leader); and
by holding the exec's output pipes: in a PID namespace a daemon's parent is the container's init, not the exec. On v2 a
daemon goes on when it left its session, closed its output and has set a timer slack of its own.
"""

import os
import signal
from collections.abc import Iterable

from shimd.shim import cgroup
from shimd.shim.files import read, start_time

_ROUNDS = 8
_SLACK_NS = 50_000
_SLACKS = 100_000


def slack_ns(number: int) -> int:
    """The timer slack of an exec's processes: that of everybody is 50 µs."""
    return _SLACK_NS + 1 + number % _SLACKS


class ExecGroup:
    """Made when the exec's first process runs; or, with 0 for its pid, when the runtime was killed before it told one."""

    def __init__(self, init_pid: int, number: int, pid: int, pipes: frozenset[str]) -> None:
        self._pid = pid
        self._init_pid = init_pid
        self._pipes = pipes
        self._slack = b"%d" % slack_ns(number)
        self._started = _started(pid)
        self._parent = cgroup.container_cgroup(init_pid)
        self._wanted = f"{self._parent}/exec-{number}" if self._parent else ""
        self._directory = ""
        self._signalled: set[int] = set()
        stat = _stat(pid)
        self._leads_session = stat[3:4] == [str(pid)]
        # most commands of a probe have ended by now
        if pid and not cgroup.is_unified() and stat[:1] != ["Z"]:
            self._move({pid} | descendants({pid}, cgroup.tree_procs(self._parent)))

    def _move(self, pids: set[int]) -> None:
        if not self._directory and self._wanted:
            try:
                os.mkdir(self._wanted, 0o755)
            except OSError:
                return
            self._directory = self._wanted
        for pid in pids if self._directory else ():
            cgroup.write(f"{self._directory}/cgroup.procs", str(pid))

    def kill(self) -> int:
        """SIGKILL every process of the group that is found, and those that were forked meanwhile; returns how many live."""
        pids: set[int] = set()
        for _ in range(_ROUNDS):
            pids = self._members()
            new = pids - self._signalled
            self._signalled |= pids
            self._signal(pids)
            if not new:
                break
        return len(pids)

    def _signal(self, pids: set[int]) -> None:
        if cgroup.is_unified():
            self._move(pids - set(cgroup.procs(self._directory)))
        if pids and self._directory and os.path.exists(f"{self._directory}/cgroup.kill"):
            cgroup.write(f"{self._directory}/cgroup.kill", "1")
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _members(self) -> set[int]:
        """Looked for in all of the node the first time, and then in the container and among who was found."""
        here = cgroup.tree_procs(self._parent)
        everywhere = here | self._signalled if self._pid and here and self._signalled else set(_all_pids())
        roots = set(cgroup.procs(self._directory))
        if self._leads_session:
            roots |= {pid for pid in everywhere if _stat(pid)[3:4] == [str(self._pid)]}
        elif self._pid:
            roots.add(self._pid)
        among = set(here)
        if not self._pid:  # it may not have come to the container's cgroup, but is the keeper's
            among |= descendants({os.getppid()}, everywhere) - {self._init_pid, os.getpid()}
        roots |= {pid for pid in among if self._owns(pid)}
        return {
            pid for pid in roots | descendants(roots, everywhere) if _stat(pid)[:1] not in ([], ["Z"], ["X"])
        }

    def _owns(self, pid: int) -> bool:
        """By its timer slack, which an exec of long ago may have had as well, or by the pipes."""
        marked = read(f"/proc/{pid}/timerslack_ns").strip() == self._slack and _started(pid) >= self._started
        return marked or _holds(pid, self._pipes)

    def release(self) -> None:
        """The exec has ended: what it left running goes back to the container."""
        if not self._directory:
            return
        for pid in cgroup.procs(self._directory):
            cgroup.write(f"{self._parent}/cgroup.procs", str(pid))
        try:
            os.rmdir(self._directory)
        except OSError:
            pass  # the container's end removes it
        self._directory = ""


def descendants(roots: set[int], among: Iterable[int]) -> set[int]:
    """Children of children, from one pass over the processes they may be among."""
    children: dict[int, list[int]] = {}
    for pid in among:
        stat = _stat(pid)
        if stat:
            children.setdefault(int(stat[1]), []).append(pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def _holds(pid: int, pipes: frozenset[str]) -> bool:
    try:
        return bool(pipes) and any(
            os.readlink(f"/proc/{pid}/fd/{fd}") in pipes for fd in os.listdir(f"/proc/{pid}/fd")
        )
    except OSError:
        return False  # it has gone, or closed what was listed


def _started(pid: int) -> int:
    return int(start_time(str(pid)) or b"0")


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> list[str]:
    """State, parent, process group and session of a process; empty if it is gone."""
    return read(f"/proc/{pid}/stat").decode(errors="replace").rpartition(")")[2].split()[:4]
