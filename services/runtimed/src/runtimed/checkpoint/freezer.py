"""Holding the processes of a container still, by the freezer of its cgroup, with whatever is below it.

An OCI runtime does so, too: crun freezes the cgroup that it makes below a systemd scope, runc the scope. So both are let
run; and the lower one is asked, which says that it stands still whichever of them was frozen.
"""

from pathlib import Path

import anyio
import anyio.to_thread

from common.errors import DeadlineExceededError, FailedPreconditionError
from runtimed.oci.cgroups import CgroupPlan

FREEZE_S = 5.0
POLL_S = 0.005


async def freeze(plan: CgroupPlan) -> None:
    """Returns when no process of it runs.

    Raises:
        FailedPreconditionError: this machine has no freezer, or the cgroup is gone.
        DeadlineExceededError: a process cannot be frozen; it may be half frozen now.
    """
    await _write(plan, still=True)
    await until_frozen(plan)


async def until_frozen(plan: CgroupPlan) -> None:
    """Wait until no process of a cgroup that is being frozen runs.

    Raises:
        DeadlineExceededError: a process cannot be frozen; it may be half frozen now.
    """
    try:
        with anyio.fail_after(FREEZE_S):
            while not await anyio.to_thread.run_sync(frozen, plan):  # noqa: ASYNC110 - v1 tells nobody
                await anyio.sleep(POLL_S)
    except TimeoutError as exc:
        raise DeadlineExceededError(f"cgroup {plan.path}: not frozen within {FREEZE_S:.0f} s") from exc


async def thaw(plan: CgroupPlan) -> None:
    """Let it run again; nothing happens when it is gone or runs."""
    try:
        await _write(plan, still=False)
    except FailedPreconditionError:
        return


def frozen(plan: CgroupPlan) -> bool:
    """Whether every process of it is still. Blocking."""
    try:
        if plan.version == 1:
            return _files(plan)[0].read_text().strip() == "FROZEN"
        return "frozen 1" in Path(plan.leaf, "cgroup.events").read_text()
    except OSError:
        return False


def _files(plan: CgroupPlan) -> list[Path]:
    """What is written to let it run; to the first, to hold it still."""
    if plan.version == 1:
        return [Path(plan.dirs.get("freezer", "/nonexistent")) / "freezer.state"]
    return [Path(directory, "cgroup.freeze") for directory in dict.fromkeys((plan.dirs[""], plan.leaf))]


async def _write(plan: CgroupPlan, *, still: bool) -> None:
    words = ("THAWED", "FROZEN") if plan.version == 1 else ("0", "1")

    def write() -> None:
        files = _files(plan)
        for path in files[:1] if still else files:
            with path.open("r+") as file:
                file.write(words[still])

    try:
        await anyio.to_thread.run_sync(write)
    except OSError as exc:
        raise FailedPreconditionError(f"cgroup {plan.path}: cannot be frozen: {exc.strerror}") from exc
