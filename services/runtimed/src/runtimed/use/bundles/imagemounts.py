"""Images mounted as volumes: a read-only snapshot for each image of a container, gone with the container.

The layers below such a snapshot are those of every other container of the image, on disk and in memory, and stay
for as long as the snapshot stands, whatever becomes of the image.
"""

import os
from functools import partial
from pathlib import Path

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import NotFoundError, UnknownError
from common.sys import linux
from common.sys.userns import IdMappings
from runtimed.ports import Snapshots
from runtimed.use.undo import Undo

FAILED = "ImageVolumeMountFailed"  # kubelets read this prefix


def is_image(mount: cri.Mount) -> bool:
    return bool(mount.image.image)


def keys(container_id: str, config: cri.ContainerConfig) -> dict[str, str]:
    """Key of the snapshot for each image that a container mounts."""
    wanted = dict.fromkeys(mount.image.image for mount in config.mounts if is_image(mount))
    return {image: f"{container_id}-{index}" for index, image in enumerate(wanted)}


def owner(key: str) -> str:
    """The container whose snapshot this is, be it its root or a mounted image."""
    return key.partition("-")[0]


async def prepare(
    snapshots: Snapshots,
    container_id: str,
    wanted: pb.CreateContainerRequest,
    snapshotter: str,
    ids: IdMappings | None,
    undo: Undo,
) -> dict[str, str]:
    """Mount the images that a request mounts; returns their root directories by image.

    Raises:
        NotFoundError: an image was not resolved, or lacks a layer.
    """
    roots = {}
    for image, key in keys(container_id, wanted.request.config).items():
        if image not in wanted.mount_images:
            raise NotFoundError(f"mounts.image: {image!r} was not resolved")
        undo.push(f"image {image}", partial(snapshots.remove, key))
        layers = list(wanted.mount_images[image].diff_ids)
        roots[image] = await snapshots.prepare(key, layers, snapshotter, readonly=True, ids=ids)
    return roots


def locate(mount: cri.Mount, root: str) -> str:
    """Where an image mount's content is on the host: its sub path, resolved within the image. Blocking.

    Raises:
        UnknownError: the image has nothing there.
    """
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        inner = linux.openat2(fd, mount.image_sub_path or ".", os.O_PATH)
    except OSError as error:
        raise UnknownError(
            f"{FAILED}: mounts.image_sub_path: {mount.image_sub_path!r} in image {mount.image.image!r}: "
            f"{error.strerror}"
        ) from error
    finally:
        os.close(fd)
    try:
        return str(Path(f"/proc/self/fd/{inner}").readlink())  # the image cannot change: this stays true
    finally:
        os.close(inner)
