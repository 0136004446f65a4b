"""Counts the OOM kills in a container's cgroup, of either cgroup version, and tells of new ones."""

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
    """`delta` is how many kills there were since `open`, also when the cgroup is gone by now."""

    def __init__(self, loop: Loop, directory: str, on_oom: Callable[[], None]) -> None:
        self._loop = loop
        self._directory = directory
        self._on_oom = on_oom
        self._fd = -1
        self._event_fd = -1
        self._baseline = self._last = 0
        if directory:
            self._baseline = self._last = self._count()  # 0 when the runtime has yet to make the cgroup

    def open(self) -> None:
        """Watch, now that the cgroup is there; without it, or without the right, there are no events."""
        if not self._directory:
            return
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
        }

    def take_over(self, facts: Facts, get: Get) -> None:
        self._baseline, self._last = facts["baseline"], facts["last"]
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
        before = self._last
        if self.delta() and self._last > before:
            self._on_oom()
        elif self._event_fd >= 0 and not os.path.isdir(self._directory):
            self.close()

    def delta(self) -> int:
        self._last = max(self._last, self._count())
        return self._last - self._baseline

    def memory(self) -> Facts:
        """What the cgroup knows of memory: its limit and most use in bytes, and how often it hit the limit."""
        found: Facts = {"oom_kill": self.delta()}
        for key, names in _FILES.items():
            for name in names:
                text = read(f"{self._directory}/{name}") if self._directory else b""
                if text.strip().isdigit():
                    found[key] = int(text)
        for line in read(f"{self._directory}/memory.events").splitlines() if self._directory else ():
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
        for name in ("memory.events", "memory.oom_control"):
            _, found, count = read(f"{self._directory}/{name}").partition(b"oom_kill ")
            if found:
                return int(count.split(b"\n", 1)[0])
        return 0
