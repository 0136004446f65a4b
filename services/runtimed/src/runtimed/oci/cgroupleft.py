"""The cgroup that an OCI runtime leaves when it dies over a start: it then knows no container that it could delete."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from common.observe.log import get_logger
from runtimed.oci.cgroups import ROOT, CgroupPlan

WAIT_S = 2.0
_log = get_logger("runtimed")


def remove(plan: CgroupPlan | None) -> None:
    """End what is still in a container's cgroup, and remove that from each hierarchy; idempotent. Blocking, for a moment."""
    if plan is None:
        return
    # on v1 a runtime uses hierarchies, too, that no limit needs, such as name=systemd
    places = {*map(Path, plan.dirs.values()), *Path(ROOT).glob(f"*{plan.path}")}
    left = [place for place in places if place.is_dir()]
    deadline = time.monotonic() + WAIT_S
    while left and time.monotonic() < deadline:
        left = [place for place in left if not _gone(place)]
        if left:
            time.sleep(0.01)  # noqa: TID251 - of the end of a process in another's cgroup there is no event
    if left:
        _log.warning("cgroup.left", paths=[str(place) for place in left])


def _gone(place: Path) -> bool:
    for path, _, _ in os.walk(place, topdown=False):
        with suppress(OSError, ValueError):
            for pid in Path(path, "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        with suppress(OSError):
            Path(path).rmdir()
    return not place.exists()
