"""Where the trees of layers can be seen: in their directories, where their images are mounted, or where they are served."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from snapshotd.lazy.job import Verdict
from snapshotd.ports import Images, LazyLayers, Mounts
from snapshotd.records import LayerRecord, LazyForm
from snapshotd.store import Places


class Roots:
    """The roots of layers' trees. Blocking; from any thread.

    An image is mounted once for all snapshots, so that they share its pages in memory.

    Args:
        places: where layers lie.
        mounts: where images are mounted, by layer.
        images: mounts them.
        lazies: serves layers whose bytes come.
    """

    def __init__(self, places: Places, mounts: Mounts, images: Images, lazies: LazyLayers) -> None:
        self._places, self._mounts, self._images, self._lazies = places, mounts, images, lazies
        self._guard = threading.Lock()
        self._locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    def tree(self, layer: LayerRecord) -> Path:
        """The layer's directory; where it is served or that of its image when it has no other.

        Raises:
            SlipwayError: it cannot be served.
            OSError: with the path.
        """
        if layer.tree:
            return self._places.tree(layer.id)
        if layer.lazy:
            if not self._lazies.is_mounted(layer.id):
                self.serve(layer.id, layer.lazy, threading.Event())
            return self._lazies.path(layer.id)
        return self.image(layer)

    def serve(self, layer_id: str, form: LazyForm, given_up: threading.Event) -> Verdict:
        """Serve a layer whose bytes come, and say what it is; see ports.LazyLayers."""
        with self._alone(layer_id):
            return self._lazies.mount(layer_id, form, given_up)

    def has_mount(self, layer_id: str) -> bool:
        """Whether it is served, or was and is not released yet."""
        return self._lazies.has(layer_id)

    def image(self, layer: LayerRecord) -> Path:
        """Where the layer's image is mounted, which is done when it is not.

        Raises:
            OSError: with the path.
        """
        target = self._mounts.path(layer.id)
        with self._alone(layer.id):
            if not os.path.ismount(target):
                self._images.mount(self._places.image(layer.id), target)
        return target

    def release(self, layer_id: str, held: Callable[[], bool]) -> None:
        """Unmount the layer's image, and serve it no more, unless it is held.

        Raises:
            OSError: with the path.
        """
        with self._alone(layer_id):
            if not held():
                self._mounts.unmount(layer_id)
                self._lazies.unmount(layer_id)

    @contextmanager
    def _alone(self, layer_id: str) -> Iterator[None]:
        """One at a time for each layer: a server may take a minute to start, which is nothing to the other layers."""
        with self._guard:
            lock = self._locks.setdefault(layer_id, threading.Lock())
        with lock:
            yield
