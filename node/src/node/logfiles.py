"""The logs of a node's processes, kept small: in a run directory that is memory they would take all of it."""

import os
import shutil
from pathlib import Path

from common.observe.log import get_logger

MOST_BYTES = 16 << 20
"""Of one log, and of what was before it."""
_log = get_logger("supervisor")


def bound(directory: Path) -> None:
    """Move what is in logs that are too large to NAME.log.1, in place of what is there. Blocking."""
    for path in directory.glob("*.log"):
        try:
            if path.stat().st_size > MOST_BYTES:
                _cut(path)
        except OSError as exc:
            _log.warning("log.too_large", path=str(path), error=str(exc))


def _cut(path: Path) -> None:
    """Copy a log and empty it: its writers have it open to their end, shims to that of their containers.

    What is written between the one and the other is lost; a disk that has no room for the copy gets none.
    """
    before = path.with_name(f"{path.name}.1")
    with path.open("rb+") as file:
        try:
            with before.open("wb") as copy:
                shutil.copyfileobj(file, copy)
        except OSError as exc:
            _log.warning("log.not_kept", path=str(path), error=str(exc))
            before.unlink(missing_ok=True)
        os.ftruncate(file.fileno(), 0)
