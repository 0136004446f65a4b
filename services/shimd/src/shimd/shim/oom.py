"""Counts the OOM kills in a container's cgroup, of either cgroup version, and tells of new ones.

systemd removes the cgroup of a container as soon as it is empty, which may be before the shim has read it. Of version 2, the
cgroups above count along: what the nearest one counts more than at the last look was here, if this one had been at its limit.
"""

import os
from collections.abc import Callable

from shimd.shim.files import read
from shimd.shim.handover import Facts, Get, Put
from shimd.shim.loop import IN, PRI, Loop

_READ_BYTES = 4096
_FILES = {
    "limit_bytes": ("memory.max", "memory.limit_in_bytes"),
    "peak_bytes": ("memory.peak", "memory.max_usage_in_bytes"),
    "max": ("memory.failcnt",),
}
"""By fact, its file in either cgroup version."""


class OomWatch:
    """`delta` is how many kills there were since `open`, also when the cgroup is gone by now; `on_oom` is called by what finds more."""

    def __init__(self, loop: Loop, directory: str, on_oom: Callable[[], None]) -> None:
        self._loop = loop
        self._directory = directory
        self._on_oom = on_oom
        self._fd = -1
        self._event_fd = -1
        self._last = 0
        self._above: dict[str, int] = {}
        """Kills in the cgroups above, the nearest first, at the last look; none while this one has not been at its limit."""
        self._memory: Facts = {}
        self._baseline = self._last = self._count()  # 0 when the runtime has yet to make the cgroup

    def open(self) -> None:
        """Watch, now that the cgroup is there; without it, or without the right, there are no events."""
        if not self._directory:
            return
        self._count()  # for what is above
        try:
            if os.path.exists(f"{self._directory}/memory.events"):
                self._fd = os.open(f"{self._directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
                os.pread(self._fd, _READ_BYTES, 0)  # the file is ready until it has been read
                self._loop.watch(self._fd, PRI, self._changed)
            else:
                self._open_v1()
        except OSError:
            self.close()

    def hand_over(self, put: Put) -> Facts:
        """The events come by the eventfd (version 1) or by the open file (version 2)."""
        return {
            "fd": put(self._fd, 0 if self._event_fd >= 0 else PRI),
            "event_fd": put(self._event_fd, IN),
            "baseline": self._baseline,
            "last": self._last,
            "above": self._above,
            "memory": self._memory,
        }

    def take_over(self, facts: Facts, get: Get) -> None:
        self._baseline, self._last = facts["baseline"], facts["last"]
        # an older shim has neither
        self._above, self._memory = facts.get("above", {}), facts.get("memory", {})
        self._fd, self._event_fd = get(facts["fd"]), get(facts["event_fd"])
        if self._event_fd >= 0:
            self._loop.watch(self._event_fd, IN, self._changed)
        elif self._fd >= 0:
            self._loop.watch(self._fd, PRI, self._changed)

    def _open_v1(self) -> None:
        self._fd = os.open(f"{self._directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        self._event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control = os.open(f"{self._directory}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(control, f"{self._event_fd} {self._fd}".encode())
        finally:
            os.close(control)
        self._loop.watch(self._event_fd, IN, self._changed)

    def _changed(self, _events: int) -> None:
        try:
            if self._event_fd >= 0:
                os.read(self._event_fd, 8)
            else:
                os.pread(self._fd, _READ_BYTES, 0)
        except BlockingIOError:
            return
        except OSError:
            self.close()  # the cgroup has gone
            return
        if not self._memory:
            self.memory()
        before = self._last
        self.delta()
        if self._last == before and self._event_fd >= 0 and not os.path.isdir(self._directory):
            self.close()

    def delta(self) -> int:
        count = self._count()
        if count > self._last:
            self._last = count
            self._on_oom()
        return self._last - self._baseline

    def memory(self) -> Facts:
        """What the cgroup knows of memory: its limit and most use in bytes, and how often it hit the limit."""
        found = self._memory
        found["oom_kill"] = self.delta()
        if not self._directory:
            return found
        for key, names in _FILES.items():
            for name in names:
                text = read(f"{self._directory}/{name}")
                if text.strip().isdigit():
                    found[key] = int(text)
        for line in read(f"{self._directory}/memory.events").splitlines():
            key, _, count = line.decode().partition(" ")
            if key in ("high", "max"):
                found[key] = int(count)
        return found

    def close(self) -> None:
        for fd in (self._event_fd, self._fd):
            if fd >= 0:
                self._loop.forget(fd)
                os.close(fd)
        self._fd = self._event_fd = -1

    def _count(self) -> int:
        if not self._directory:
            return 0
        own = read(f"{self._directory}/memory.events")
        if own:
            self._above = _above(self._directory) if b"\nmax 0\n" not in own else {}
            return _kills(own)
        own = read(f"{self._directory}/memory.oom_control")
        return _kills(own) if own else self._last + self._counted_above()

    def _counted_above(self) -> int:
        for directory, before in self._above.items():
            text = read(f"{directory}/memory.events")
            if text:  # otherwise it has gone as well
                self._above[directory] = _kills(text)
                return max(0, self._above[directory] - before)
        return 0


def _kills(text: bytes) -> int:
    count = text.partition(b"oom_kill ")[2].split(b"\n", 1)[0]
    return int(count or b"0")


def _above(directory: str) -> dict[str, int]:
    found = {}
    directory = directory.rpartition("/")[0]
    while text := read(f"{directory}/memory.events"):  # the root has none
        found[directory] = _kills(text)
        directory = directory.rpartition("/")[0]
    return found
