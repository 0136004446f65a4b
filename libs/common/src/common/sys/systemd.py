"""What a service tells systemd and gets from it: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).

Without systemd, nobody is told and nothing is there.
"""

import os
import socket
import time
from contextlib import suppress

_FIRST_FD = 3


def ready() -> None:
    """The service answers; also the end of a reload."""
    _notify("READY=1")


def reloading() -> None:
    """The service reads its settings again, until `ready`."""
    _notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    """The service drains."""
    _notify("STOPPING=1")


def alive() -> None:
    """The service does its work: to be told at least each `watchdog_s`."""
    _notify("WATCHDOG=1")


def watchdog_s() -> float | None:
    """Seconds without a word after which systemd ends this process; None when it never does."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
    return microseconds / 1e6 if microseconds else None


def listener(path: str) -> socket.socket | None:
    """The listening Unix socket of this path that systemd made before the service, if it did."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    for fd in range(_FIRST_FD, _FIRST_FD + int(os.environ.get("LISTEN_FDS", "0"))):
        found = socket.socket(fileno=fd)
        if found.family == socket.AF_UNIX and found.getsockname() == path:
            found.set_inheritable(False)
            found.setblocking(False)
            return found
        found.detach()
    return None


def _notify(facts: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one, suppress(OSError):  # it goes on without
        one.sendto(facts.encode(), socket.MSG_DONTWAIT, f"\0{address[1:]}" if address[0] == "@" else address)
