"""What the use cases need from the machine."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.digest import Digest
from common.sys.userns import IdMappings
from snapshotd.compose import Stratum
from snapshotd.diff.answer import Unpacked
from snapshotd.lazy.job import Verdict
from snapshotd.records import LayerRecord, LazyForm


@dataclass(frozen=True, slots=True)
class UnpackJob:
    """One blob to unpack into an empty directory, with its bounds."""

    name: str
    """How messages call the blob."""
    blob: str
    target: Path
    media_type: str
    diff_id: Digest
    max_entries: int
    max_bytes: int


class Unpacker(Protocol):
    """Unpacks hostile bytes."""

    async def unpack(self, job: UnpackJob) -> Unpacked:
        """Write the blob's tree in overlayfs form; the caller removes the target when this fails.

        Raises:
            DataLossError: the bytes are damaged, cut short, or have another diff ID.
            InvalidArgumentError: an entry is never to be unpacked, or a bound is passed.
            ResourceExhaustedError: the disk is full.
            DeadlineExceededError: it took too long.
            UnavailableError: there is no process to do it in.
            OSError: the blob cannot be opened.
        """


class Images(Protocol):
    """Layers as images of a filesystem that is only read."""

    def check(self) -> None:
        """Raise unless this machine can write and mount them. Blocking.

        Raises:
            FailedPreconditionError: says what is missing.
        """

    async def write(self, tree: Path, image: Path) -> None:
        """Make the image of a tree, whole or not at all; not synced.

        Raises:
            DeadlineExceededError: it took too long.
            InternalError: with what the program says.
            ResourceExhaustedError: it takes too much memory.
            OSError: the disk is full.
        """

    def mount(self, image: Path, target: Path) -> None:
        """Mount an image; makes the mount point. Blocking.

        Raises:
            OSError: with the path.
        """


class LazyLayers(Protocol):
    """Layers served while their bytes come. Blocking."""

    def path(self, layer_id: str) -> Path:
        """Where a layer is, once it is served."""

    def has(self, layer_id: str) -> bool:
        """Whether a layer is served, or was and is not unmounted yet."""

    def is_mounted(self, layer_id: str) -> bool:
        """Whether a layer can be read there."""

    def mount(self, layer_id: str, form: LazyForm, given_up: threading.Event) -> Verdict:
        """Serve a layer, unless that is given up before its server has started.

        Raises:
            InvalidArgumentError: its table of contents is never to be served.
            FailedPreconditionError: this machine has no FUSE, or it was given up.
            InternalError: its server does not start.
            OSError: with the path.
        """

    def unmount(self, layer_id: str) -> None:
        """Serve it no more, but to those that use it. Idempotent."""


class LeftLazyLayers(Protocol):
    """What an earlier service has left served. Blocking."""

    def share(self) -> None:
        """As of Mounts."""

    def find(self) -> set[str]:
        """Ids of the layers, which are known from now on."""

    def unmount(self, layer_id: str) -> None:
        """As of LazyLayers."""


class Snapshotter(Protocol):
    """One way to stack layers. Blocking: runs in a worker thread."""

    whole: bool
    """The writable directory holds everything, in the layers' ids, rather than what differs, in the mapped ones."""

    def prepare(
        self,
        directory: Path,
        layers: list[LayerRecord],
        *,
        readonly: bool,
        ids: IdMappings | None,
        diff: Stratum | None = None,
    ) -> tuple[int, int]:
        """Fill a snapshot's new directory; returns bytes and inodes that are not the snapshot's own writes.

        `diff` lies above the layers, in a writable snapshot of ids that are not mapped; its directory may be taken.

        Raises:
            OSError: with the path.
        """

    def mount(
        self,
        directory: Path,
        target: Path,
        layers: list[LayerRecord],
        *,
        readonly: bool,
        ids: IdMappings | None,
    ) -> None:
        """Mount a prepared snapshot.

        Raises:
            OSError: with the path, or with what the kernel says.
        """

    def writable(self, directory: Path) -> Path:
        """The directory whose content counts as the snapshot's use of the disk."""


class Bin(Protocol):
    """Takes directories that are to go."""

    async def throw(self, path: Path) -> None:
        """Take a directory from its place at once, and remove it later; idempotent.

        Raises:
            OSError: with the path.
        """


class Mounts(Protocol):
    """Mount points of snapshots by key. Blocking: runs in a worker thread."""

    def share(self) -> None:
        """Make the directory of mount points within a shared mount; idempotent."""

    def path(self, key: str) -> Path: ...

    def mounted(self) -> set[str]:
        """Keys of what is mounted now."""

    def points(self) -> set[str]:
        """Keys of the mount points, mounted or not."""

    def unmount(self, key: str) -> None:
        """Unmount and remove a mount point, used or not; idempotent."""
