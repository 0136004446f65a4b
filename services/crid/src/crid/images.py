"""Images as CRI sees them, asked of imaged and snapshotd."""

import json

from common.api.cri.v1 import api_pb2
from common.api.images.v1 import images_pb2
from common.api.runtime.v1 import runtime_pb2
from common.clients.imaged import ImagedClient
from common.clients.snapshotd import SnapshotdClient
from common.errors import InternalError, InvalidArgumentError, NotFoundError
from crid.convert.image import auth_of, image_of, spec_of

IMAGE = "config.image.image"


class Images:
    """The use cases of ImageService, and what CreateContainer needs of an image."""

    def __init__(self, imaged: ImagedClient, snapshotd: SnapshotdClient) -> None:
        self._imaged = imaged
        self._snapshotd = snapshotd

    async def resolve(self, reference: str, field: str = IMAGE) -> runtime_pb2.ResolvedImage:
        """The image that a field of a container's request names.

        Raises:
            InvalidArgumentError: no image is named, or an artifact is to run.
            NotFoundError: it was not pulled, or only for another platform.
        """
        if not reference:
            message = f"{field}: empty, want the reference or the id of an image"
            raise InvalidArgumentError(message)
        try:
            image = await self._imaged.get(reference, used=True)
        except NotFoundError as exc:
            message = f"{field}: {reference!r} is not on this node: pull it first"
            raise NotFoundError(message) from exc
        if _is_foreign(image, reference):
            message = f"{field}: {reference!r} is on this node for {image.platform} alone: pull it first"
            raise NotFoundError(message)
        if image.artifact_type and field == IMAGE:
            kind = image.artifact_type
            message = f"{field}: {reference!r} is an artifact of type {kind!r}: it can be mounted as a volume, not run"
            raise InvalidArgumentError(message)
        ref = image.repo_digests[0] if image.repo_digests else image.id
        return runtime_pb2.ResolvedImage(id=image.id, config=image.config, diff_ids=image.diff_ids, ref=ref)

    async def list(self, reference: str) -> list[api_pb2.Image]:
        """All images, or the one that a filter names."""
        if reference:
            found = await self._find(reference)
            return [image_of(found)] if found else []
        return [image_of(image) for image in await self._imaged.list()]

    async def status(self, reference: str, *, verbose: bool) -> api_pb2.ImageStatusResponse:
        """One image; an empty answer when it is absent."""
        if not reference:
            message = "image.image: empty, want the reference or the id of an image"
            raise InvalidArgumentError(message)
        found = await self._find(reference)
        if not found:
            return api_pb2.ImageStatusResponse()
        info = {}
        if verbose:
            layers = json.dumps(list(found.diff_ids))
            info["info"] = f'{{"imageSpec": {spec_of(found.config)}, "diffIDs": {layers}}}'
        return api_pb2.ImageStatusResponse(image=image_of(found), info=info)

    async def pull(self, reference: str, auth: api_pb2.AuthConfig, handler: str = "") -> str:
        """Pull, for a runtime handler if one is named; returns the image's id."""
        async for progress in self._imaged.pull(reference, auth_of(auth), handler=handler):
            if progress.HasField("image"):
                return progress.image.id
        message = f"the pull of {reference!r} ended without an image"
        raise InternalError(message)

    async def remove(self, reference: str) -> None:
        """Remove all names of an image; success when there is none."""
        if not reference:
            message = "image.image: empty, want the reference or the id of an image"
            raise InvalidArgumentError(message)
        await self._imaged.remove(reference)

    async def filesystems(self) -> api_pb2.ImageFsInfoResponse:
        """Space of layers and blobs, and of what containers wrote."""
        blobs = await self._imaged.usage()
        layers = await self._snapshotd.fs_info()
        where = layers.mountpoint
        images = _usage(
            where,
            blobs.used_bytes + layers.layer_bytes,
            blobs.used_inodes + layers.layer_inodes,
            layers.at_ns,
        )
        containers = _usage(where, layers.snapshot_bytes, layers.snapshot_inodes, layers.at_ns)
        return api_pb2.ImageFsInfoResponse(image_filesystems=[images], container_filesystems=[containers])

    async def _find(self, reference: str) -> images_pb2.Image | None:
        try:
            found = await self._imaged.get(reference)
        except NotFoundError:
            return None
        return None if _is_foreign(found, reference) else found


def _is_foreign(image: images_pb2.Image, reference: str) -> bool:
    """Whether an image is another than a name means to a kubelet: one for another platform, which somebody pulled on purpose."""
    asked = reference.removeprefix("sha256:")
    return bool(image.platform) and not image.id.removeprefix("sha256:").startswith(asked)


def _usage(mountpoint: str, used_bytes: int, inodes: int, at_ns: int) -> api_pb2.FilesystemUsage:
    return api_pb2.FilesystemUsage(
        timestamp=at_ns,
        fs_id=api_pb2.FilesystemIdentifier(mountpoint=mountpoint),
        used_bytes=api_pb2.UInt64Value(value=used_bytes),
        inodes_used=api_pb2.UInt64Value(value=inodes),
    )
