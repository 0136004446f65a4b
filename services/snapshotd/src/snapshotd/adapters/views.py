"""Overlayfs over views of the layers: with mapped ids for user namespaces, with short names for old kernels.

Overlayfs takes only layers that are mounted where its maker is. So the views are mounted in a mount namespace which
one thread has for itself; it ends with the thread, and takes its mounts along.
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


def over_views(
    layers: Sequence[str], ids: IdMappings | None, place: Path, make: Callable[[list[str]], int]
) -> int:
    """Have `make` make a mount over views of these directories; returns its descriptor. Blocking.

    Args:
        layers: directories.
        ids: how to map them; None leaves them as they are.
        place: an empty directory, which is used in a mount namespace of its own only.
        make: gets the views' names, in the working directory that it has, where it may make more.

    Raises:
        OSError: also when the layers' filesystem does not support it.
    """
    made: list[int] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            linux.unshare(linux.CLONE_NEWNS)  # the working directory is the thread's own from here on, too
            linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
            made.append(make(_views(layers, ids, place)))
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work, name="overlay-views", daemon=True)
    thread.start()
    thread.join()
    for failure in failures:
        raise failure
    return made[0]


def _views(layers: Sequence[str], ids: IdMappings | None, place: Path) -> list[str]:
    views = [str(index) for index in range(len(layers))]
    with ExitStack() as fds:
        userns = fds.enter_context(opened(open_namespace(ids))) if ids else None
        trees = [fds.enter_context(opened(_open(layer, userns))) for layer in layers]
        linux.mount("views", str(place), "tmpfs")
        os.chdir(place)
        for fd, view in zip(trees, views, strict=True):
            Path(view).mkdir()
            linux.move_mount(fd, view)
    return views


def _open(layer: str, userns: int | None) -> int:
    if userns is None:
        return linux.open_tree(layer)
    return open_mapped(layer, userns, linux.MOUNT_ATTR_RDONLY)
