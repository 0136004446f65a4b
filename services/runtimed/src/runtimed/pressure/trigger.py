"""The kernel's own word that processes wait for memory, at once and without looking (PSI triggers)."""

import os
import select

import anyio

from runtimed.readings.pressure import PSI

WINDOW_US = 2_000_000
"""Without CAP_SYS_RESOURCE the kernel takes multiples of this alone; it tells once in a window at most."""


class MemoryTrigger:
    """Fires when some process has waited for memory for so many percent of a window; never, on kernels without PSI."""

    def __init__(self, percent: float) -> None:
        # The kernel tells by an exceptional condition, which event loops do not wait for; the epoll is readable then.
        self._epoll = select.epoll()
        self._fd = -1
        if percent:
            self._open(percent)

    def _open(self, percent: float) -> None:
        try:
            self._fd = os.open(f"{PSI}/memory", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(self._fd, f"some {int(percent / 100 * WINDOW_US)} {WINDOW_US}\0".encode())
            self._epoll.register(self._fd, select.EPOLLPRI)
        except OSError:
            self._close_file()

    async def wait(self, within_s: float) -> bool:
        """Whether it fired within the time."""
        with anyio.move_on_after(within_s):
            await anyio.wait_readable(self._epoll)
            return bool(self._epoll.poll(0))
        return False

    def close(self) -> None:
        self._close_file()
        self._epoll.close()

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
