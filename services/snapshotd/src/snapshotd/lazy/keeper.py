"""The keeper of one layer's mount: holds the descriptor of /dev/fuse, and starts a server on it whenever there is none.

While a descriptor is held, the kernel lets requests wait; when the last one closes, every container on the layer has
lost its files. So the keeper does next to nothing, imports next to nothing, and is in no group or session of a service.
It ends by itself when the layer is unmounted and nobody uses it any more.
"""

import fcntl
import os
import signal
import sys
import time
from types import FrameType

FUSE, BLOB, SLOTS, VERDICT = 3, 4, 5, 6
"""Descriptors of keeper and server: /dev/fuse, the blob's file, the slots' memory, and where the first server tells how
the table of contents is."""
REFUSED = 3
"""Exit status of a server that will never serve."""
UNREADY = 4
"""Exit status of a server that could not begin: nobody waits for a second when it was the first."""
_FIRST_WAIT_S, _LONGEST_WAIT_S, _STEADY_S = 0.02, 5.0, 30.0
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}
"""Of a server, whose address space is bounded: each thread would reserve an arena of its own."""
_APART = 20
"""Above the descriptors of this process."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Started with the server's code, its job, the numbers that the descriptors above have, and cgroups to be in."""
    code, job, given, *cgroups = sys.argv[1:]
    _place([int(number) for number in given.split(",")])
    for number in _SIGNALS:
        signal.signal(number, _stay)
    for directory in cgroups:
        _join(directory)
    os.chdir("/")
    _keep([sys.executable, "-I", "-S", "-c", code, job])


def _keep(command: list[str]) -> None:
    pid, wait_s = _start(command), _FIRST_WAIT_S
    enough = {0, REFUSED, UNREADY}
    os.dup2(os.open(os.devnull, os.O_WRONLY), VERDICT)
    while True:
        began = time.monotonic()
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status) in enough:
            return
        enough.discard(UNREADY)
        if time.monotonic() - began > _STEADY_S:
            wait_s = _FIRST_WAIT_S
        time.sleep(wait_s)  # noqa: TID251 - one thread, which has nothing else to do
        wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
        pid = _start(command)


def _start(command: list[str]) -> int:
    return os.posix_spawn(command[0], command, _ENVIRONMENT, setsigdef=_SIGNALS)


def _place(given: list[int]) -> None:
    """Give the descriptors the numbers that the server knows."""
    apart = [fcntl.fcntl(fd, fcntl.F_DUPFD, _APART) for fd in given]
    for fd in given:
        os.close(fd)
    for wanted, fd in zip((FUSE, BLOB, SLOTS, VERDICT), apart, strict=True):
        os.dup2(fd, wanted)
        os.close(fd)


def _stay(_number: int, _frame: FrameType | None) -> None:
    """A service that ends takes no container along."""


def _join(directory: str) -> None:
    """Enter a cgroup that is not the service's; where that cannot be, stay."""
    try:
        if not os.path.exists(directory):  # noqa: PTH110 - importing pathlib takes a megabyte
            os.mkdir(directory, 0o755)  # noqa: PTH102
            _fill(directory)
        with open(f"{directory}/cgroup.procs", "w") as procs:  # noqa: PTH123
            procs.write(str(os.getpid()))
    except OSError as exc:
        sys.stderr.write(f"lazy keeper: cgroup {directory}: {exc.strerror}\n")


def _fill(directory: str) -> None:
    """A cpuset of version 1 admits nobody before it has the processors and memories of its parent."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        above = f"{directory}/../{name}"
        if os.path.exists(above):  # noqa: PTH110
            with open(above) as inherited, open(f"{directory}/{name}", "w") as own:  # noqa: PTH123
                own.write(inherited.read())
