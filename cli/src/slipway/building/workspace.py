"""The directory of a build below the run directory, and what builds that were killed have left.

It is locked for as long as the build lives, and has the uid of the build's pod in its name: who finds it unlocked
removes both.
"""

import fcntl
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slipway.connect import OWNER, Node
from slipway.containers.removal import remove_pod

_PREFIX = "build-"


@dataclass(frozen=True, slots=True)
class Workspace:
    """One build's."""

    path: str
    uid: str


@contextmanager
def workspace(run_dir: str) -> Iterator[Workspace]:
    """Make one, for secrets, scripts and temporary directories; all of it goes at the end."""
    uid = str(uuid.uuid4())
    making = tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=run_dir)
    with _locked(making):
        path = Path(run_dir, f"{_PREFIX}{uid}")
        try:
            Path(making).rename(path)  # locked before anybody looks for it
            yield Workspace(str(path), uid)
        finally:
            shutil.rmtree(path, ignore_errors=True)


def running(run_dir: str) -> set[str]:
    """The uids of the pods of builds that have a directory."""
    return {path.name.removeprefix(_PREFIX) for path in Path(run_dir).glob(f"{_PREFIX}*")}


async def sweep(on: Node, *, until_ns: float = math.inf, dry_run: bool = False) -> AsyncIterator[str]:
    """Remove what builds left that were killed, or only tell of it; yields the uid of each.

    Args:
        on: the node.
        until_ns: only of those that last put something there before that.
        dry_run: remove nothing.
    """
    for path in Path(on.run_dir).glob(f"{_PREFIX}*"):
        try:
            with _locked(str(path)):
                if path.stat().st_mtime_ns > until_ns:
                    continue
                uid = path.name.removeprefix(_PREFIX)
                pods = [p for p in await on.pods() if p.metadata.uid == uid and OWNER in p.labels]
                if not dry_run:
                    for pod in pods:
                        await remove_pod(on, pod.id, uid)
                    shutil.rmtree(path)
                yield uid
        except (BlockingIOError, FileNotFoundError, NotADirectoryError):
            continue


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold a directory's lock.

    Raises:
        BlockingIOError: another has it.
        OSError: it is no directory.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)
