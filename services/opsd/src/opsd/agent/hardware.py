"""The machine: CPU, memory, disk and pressure, from /proc. Blocking, and quick."""

import os
from pathlib import Path

from opsd.news import Machine

PROC = Path("/proc")
_IDLE = slice(3, 5)
_JIFFIES = slice(0, 8)


class MachineReader:
    """Reads the machine; the use of CPU is that since the last reading."""

    def __init__(self, data_dir: str) -> None:
        self._data_dir = data_dir
        self._last = _jiffies()
        self._kernel = os.uname().release

    def read(self) -> Machine:
        """Now."""
        busy, total = _jiffies()
        was_busy, was_total = self._last
        self._last = busy, total
        memory = _memory()
        disk = os.statvfs(self._data_dir)
        return Machine(
            cores=os.cpu_count() or 1,
            cpu=(busy - was_busy) / (total - was_total) if total > was_total else 0,
            load=os.getloadavg()[0],
            memory_total=memory["MemTotal"],
            memory_used=memory["MemTotal"] - memory["MemAvailable"],
            disk_total=disk.f_blocks * disk.f_frsize,
            disk_used=(disk.f_blocks - disk.f_bfree) * disk.f_frsize,
            pressure={kind: _pressure(kind) for kind in ("cpu", "memory", "io")},
            uptime_s=float((PROC / "uptime").read_text().split()[0]),
            kernel=self._kernel,
        )


def _jiffies() -> tuple[int, int]:
    numbers = [int(n) for n in (PROC / "stat").read_text().partition("\n")[0].split()[1:]]
    total = sum(numbers[_JIFFIES])
    return total - sum(numbers[_IDLE]), total


def _memory() -> dict[str, int]:
    lines = (line.split() for line in (PROC / "meminfo").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines}


def _pressure(kind: str) -> float | None:
    """avg10 of `some`; None where the kernel does not tell."""
    try:
        line = (PROC / "pressure" / kind).read_text().partition("\n")[0]
    except OSError:
        return None
    return float(line.split()[1].removeprefix("avg10="))
