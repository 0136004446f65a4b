"""Where a container is dumped, beside its record: its memory, which must not outlive the checkpoint.

What is written elsewhere meanwhile has a link there, so that a later life of the service finds it. All blocking.
"""

import secrets
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

PREFIX = "dump-"
_WRITTEN = "written"


def name(record_dir: Path) -> Path:
    """A new one, which is not made yet."""
    return record_dir / f"{PREFIX}{secrets.token_hex(4)}"


def temporary(place: Path, target: Path) -> Path:
    """What to write, in place of a file, until it is whole; it goes with the place."""
    found = target.with_name(f".{place.name}.new")
    (place / _WRITTEN).symlink_to(found)
    return found


def remove(place: Path) -> None:
    """Remove it with all that is written elsewhere; idempotent."""
    with suppress(OSError):  # there is none, or its directory has gone
        (place / _WRITTEN).readlink().unlink()
    shutil.rmtree(place, ignore_errors=True)


def remove_left(containers: Path, in_use: Collection[Path]) -> list[str]:
    """Remove those of all containers but some; returns the ids of the containers that had one."""
    left: list[Path] = []
    for record_dir in containers.glob("*"):  # of a node that never had a container there is no directory
        with suppress(FileNotFoundError):  # its container was removed meanwhile
            left += [place for place in record_dir.glob(f"{PREFIX}*") if place not in in_use]
    for place in left:
        remove(place)
    return [place.parent.name for place in left]
