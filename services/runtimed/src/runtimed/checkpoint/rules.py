"""What a checkpoint's and a restore's request must be; told before anything is touched. The functions that look at files block."""

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from common.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError, NotFoundError


def no_options(options: Mapping[str, str]) -> None:
    """None is known, and one that is not known must not be ignored."""
    for name in options:
        raise InvalidArgumentError(f"options: {name!r} is unknown; there are none")


def absolute(field: str, path: str) -> Path:
    """The path of a field."""
    if not path.startswith("/") or "\x00" in path or ".." in path.split("/"):
        raise InvalidArgumentError(f"{field}: {path!r} is not absolute or leads upwards")
    return Path(path)


def new_file(field: str, path: Path) -> None:
    """Nothing may be there, but its directory must be."""
    if not path.parent.is_dir():
        raise NotFoundError(f"{field}: {str(path.parent)!r} is no directory")
    if path.is_symlink() or path.exists():
        raise AlreadyExistsError(f"{field}: {str(path)!r} exists already")


def directory(field: str, path: Path) -> None:
    """A directory itself, not a link to one."""
    try:
        mode = path.lstat().st_mode
    except OSError as exc:
        raise NotFoundError(f"{field}: {str(path)!r}: {exc.strerror}") from exc
    if not stat.S_ISDIR(mode):
        raise InvalidArgumentError(f"{field}: {str(path)!r} is no directory")


def empty_directory(field: str, path: Path) -> None:
    """An existing one, so that nothing of others is in the way or gets lost."""
    directory(field, path)
    with os.scandir(path) as entries:
        for entry in entries:
            raise FailedPreconditionError(f"{field}: {str(path)!r} is not empty: it has {entry.name!r}")


def exactly_running(wanted: Iterable[str], running: Iterable[str]) -> None:
    """The ids of all running containers of a sandbox, each once: a pod is dumped whole."""
    listed, there = list(wanted), set(running)
    for container_id in listed:
        if listed.count(container_id) > 1:
            raise InvalidArgumentError(f"container_ids: {container_id!r} is there twice")
        if container_id not in there:
            raise InvalidArgumentError(
                f"container_ids: {container_id!r} is no running container of this sandbox"
            )
    for container_id in sorted(there - set(listed)):
        raise InvalidArgumentError(f"container_ids: {container_id!r} runs too, and is missing")
    if not listed:
        raise FailedPreconditionError("container_ids: no container of this sandbox runs")


def same_names(configured: Iterable[str], checkpointed: Iterable[str]) -> None:
    """The names of a restore's configurations against those in the checkpoint."""
    names, held = list(configured), set(checkpointed)
    for name in names:
        if not name or names.count(name) > 1:
            raise InvalidArgumentError(f"container_configs: the name {name!r} is empty or there twice")
        if name not in held:
            raise InvalidArgumentError(f"container_configs: {name!r} is not in the checkpoint")
    for name in sorted(held - set(names)):
        raise InvalidArgumentError(f"container_configs: {name!r} of the checkpoint is missing")
