"""What is mounted in this process's namespace, and how it goes (proc(5), mountinfo)."""

import os
from collections.abc import Callable
from typing import BinaryIO

from common.sys import linux

_TABLE = "/proc/self/mountinfo"


def mount_points() -> list[tuple[str, str]]:
    """Mount point and optional fields (propagation) of every mount of this process, in mount order."""
    with open(_TABLE, "rb") as table:  # noqa: PTH123 - a kernel file
        return _read(table)


def detach(is_meant: Callable[[str], bool]) -> list[str]:
    """Detach every mount at a path that is meant; returns what was detached, in that order.

    A path can have several mounts, and one below a mount that came later is out of reach until that is gone: as systemd
    shares /run, `ip netns` leaves each of its mounts twice, the second below its own /run/netns.

    Raises:
        OSError: one stays.
    """
    gone: list[str] = []
    with open(_TABLE, "rb") as table:  # noqa: PTH123 - a kernel file; still to be read when /proc is gone
        while left := [path for path, _ in reversed(_read(table)) if is_meant(path)]:
            before, failure = len(gone), None
            for path in left:
                try:
                    linux.umount(path, linux.MNT_DETACH | linux.UMOUNT_NOFOLLOW)
                    gone.append(path)
                except OSError as exc:
                    failure = exc
            if failure and len(gone) == before:
                raise failure
    return gone


def _read(table: BinaryIO) -> list[tuple[str, str]]:
    table.seek(0)
    points = []
    for raw in table:
        fields = os.fsdecode(raw).split(" ")
        path = fields[4]
        for octal, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
            path = path.replace(octal, char)
        points.append((path, " ".join(fields[6 : fields.index("-")])))
    return points
