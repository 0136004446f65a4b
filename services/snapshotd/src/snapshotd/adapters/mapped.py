"""Overlayfs over layers whose ids are mapped: for containers in user namespaces.

Overlayfs takes only layers that are mounted where its maker is. So mapped views of the layers are mounted in a
mount namespace which one thread has for itself; it ends with the thread, and takes its mounts along.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common.sys import linux
from common.sys.userns import IdMappings, open_mapped, open_namespace


@contextmanager
def opened(fd: int) -> Iterator[int]:
    """Close a descriptor in the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def over_mapped(layers: Sequence[str], ids: IdMappings, place: Path, make: Callable[[list[str]], int]) -> int:
    """Have `make` make a mount over mapped views of these directories; returns its descriptor. Blocking.

    Args:
        layers: directories.
        ids: how to map them.
        place: an empty directory, which is used in a mount namespace of its own only.
        make: gets the views' paths.

    Raises:
        OSError: also when the layers' filesystem does not support it.
    """
    made: list[int] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            linux.unshare(linux.CLONE_NEWNS)
            linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
            made.append(make(_views(layers, ids, place)))
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work, name="overlay-mapped", daemon=True)
    thread.start()
    thread.join()
    for failure in failures:
        raise failure
    return made[0]


def _views(layers: Sequence[str], ids: IdMappings, place: Path) -> list[str]:
    views = [place / str(index) for index in range(len(layers))]
    with ExitStack() as fds:
        userns = fds.enter_context(opened(open_namespace(ids)))
        mapped = [
            fds.enter_context(opened(open_mapped(layer, userns, linux.MOUNT_ATTR_RDONLY))) for layer in layers
        ]
        linux.mount("views", str(place), "tmpfs")
        for fd, view in zip(mapped, views, strict=True):
            view.mkdir()
            linux.move_mount(fd, str(view))
    return [str(view) for view in views]
