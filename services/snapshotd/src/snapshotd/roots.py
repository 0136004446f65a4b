"""Where the trees of layers can be seen: in their directories, or where their images are mounted."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

from snapshotd.ports import Images, Mounts
from snapshotd.records import LayerRecord
from snapshotd.store import Places


class Roots:
    """The roots of layers' trees. Blocking; from any thread.

    An image is mounted once for all snapshots, so that they share its pages in memory.

    Args:
        places: where layers lie.
        mounts: where images are mounted, by layer.
        images: mounts them.
    """

    def __init__(self, places: Places, mounts: Mounts, images: Images) -> None:
        self._places, self._mounts, self._images = places, mounts, images
        self._lock = threading.Lock()

    def tree(self, layer: LayerRecord) -> Path:
        """The layer's directory; that of its image when it has no other.

        Raises:
            OSError: with the path.
        """
        return self._places.tree(layer.id) if layer.tree else self.image(layer)

    def image(self, layer: LayerRecord) -> Path:
        """Where the layer's image is mounted, which is done when it is not.

        Raises:
            OSError: with the path.
        """
        target = self._mounts.path(layer.id)
        with self._lock:
            if not os.path.ismount(target):
                self._images.mount(self._places.image(layer.id), target)
        return target

    def release(self, layer_id: str, held: Callable[[], bool]) -> None:
        """Unmount the layer's image unless it is held.

        Raises:
            OSError: with the path.
        """
        with self._lock:
            if not held():
                self._mounts.unmount(layer_id)
