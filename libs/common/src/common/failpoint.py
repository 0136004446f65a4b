"""Named moments at which a service can be held, so that a test kills what it wants just then.

Not armed unless RUN_DIR/failpoints is there when the service starts, which only tests make; else a failpoint costs the
look at one flag. There, a file of a failpoint's name arms it: who comes to it first renames the file to NAME.reached, and
waits until that is gone.
"""

from enum import StrEnum
from pathlib import Path

import anyio

DIRECTORY = "failpoints"
REACHED = ".reached"
HELD_S = 60.0
"""The longest hold; a test that died must not hold a service for ever."""
LOOK_S = 0.005


class Step(StrEnum):
    """What a kubelet asks for, and what that needs."""

    PULL = "pull"
    UNPACK = "unpack"
    RUN_SANDBOX = "RunPodSandbox"
    CREATE = "CreateContainer"
    START = "StartContainer"
    EXEC = "exec"
    ROTATE = "log rotation"
    STOP = "StopContainer"
    REMOVE = "RemoveContainer"
    REMOVE_SANDBOX = "RemovePodSandbox"


POINTS = {
    "imaged.pull.resolved": Step.PULL,
    "imaged.pull.fetched": Step.PULL,
    "imaged.pull.unpacked": Step.PULL,
    "imaged.pull.recorded": Step.PULL,
    "snapshotd.unpack.laid-out": Step.UNPACK,
    "snapshotd.unpack.kept": Step.UNPACK,
    "snapshotd.unpack.recorded": Step.UNPACK,
    "runtimed.sandbox.grounded": Step.RUN_SANDBOX,
    "runtimed.sandbox.attached": Step.RUN_SANDBOX,
    "runtimed.sandbox.paused": Step.RUN_SANDBOX,
    "runtimed.sandbox.ready": Step.RUN_SANDBOX,
    "crid.create.resolved": Step.CREATE,
    "snapshotd.prepare.built": Step.CREATE,
    "snapshotd.prepare.recorded": Step.CREATE,
    "runtimed.create.rooted": Step.CREATE,
    "runtimed.create.bundled": Step.CREATE,
    "runtimed.create.recorded": Step.CREATE,
    "shimd.spawn.furnished": Step.START,
    "shimd.spawn.forked": Step.START,
    "runtimed.start.spawned": Step.START,
    "runtimed.start.ran": Step.START,
    "runtimed.start.recorded": Step.START,
    "runtimed.exec.asked": Step.EXEC,
    "runtimed.exec.answered": Step.EXEC,
    "runtimed.rotate.asked": Step.ROTATE,
    "runtimed.rotate.done": Step.ROTATE,
    "runtimed.stop.recorded": Step.STOP,
    "runtimed.stop.signalled": Step.STOP,
    "runtimed.exit.heard": Step.STOP,
    "runtimed.exit.recorded": Step.STOP,
    "shimd.remove.ended": Step.STOP,
    "runtimed.remove.recorded": Step.REMOVE,
    "snapshotd.remove.unmounted": Step.REMOVE,
    "snapshotd.remove.forgotten": Step.REMOVE,
    "runtimed.remove.cleaned": Step.REMOVE,
    "runtimed.remove.forgotten": Step.REMOVE,
    "runtimed.unsandbox.stopped": Step.REMOVE_SANDBOX,
    "runtimed.unsandbox.released": Step.REMOVE_SANDBOX,
    "runtimed.unsandbox.recorded": Step.REMOVE_SANDBOX,
    "runtimed.unsandbox.forgotten": Step.REMOVE_SANDBOX,
}
"""Every failpoint there is, by SERVICE.WORK.WHAT-HAS-BEEN-DONE, and the step that it is in."""
_directory: Path | None = None


def setup(run_dir: str) -> None:
    """Let failpoints be armed, if this node is one of a test."""
    global _directory
    directory = Path(run_dir, DIRECTORY)
    _directory = directory if directory.is_dir() else None


async def failpoint(name: str) -> None:
    """Be held here if a test wants that."""
    if _directory is not None:
        await _hold(_directory / name)


async def _hold(armed: Path) -> None:
    reached = armed.with_name(armed.name + REACHED)
    try:
        await anyio.Path(armed).rename(reached)
    except FileNotFoundError:
        return
    with anyio.move_on_after(HELD_S):
        while await anyio.Path(reached).exists():  # noqa: ASYNC110 - another process's fact
            await anyio.sleep(LOOK_S)
