"""runtime.v1.ImageService."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from common.api.cri.v1 import api_pb2, api_pb2_grpc
from crid.failures import Failures
from crid.images import Images
from crid.servicer.lists import pieces


def register(server: grpc.aio.Server, images: Images, failures: Failures) -> None:
    """Answer ImageService on a server."""
    api_pb2_grpc.add_ImageServiceServicer_to_server(ImageServicer(images, failures), server)


class ImageServicer(api_pb2_grpc.ImageServiceServicer):
    """Converts, calls, converts."""

    def __init__(self, images: Images, failures: Failures) -> None:
        self._images = images
        self._failures = failures

    async def ListImages(
        self, request: api_pb2.ListImagesRequest, context: Any
    ) -> api_pb2.ListImagesResponse:
        return api_pb2.ListImagesResponse(images=await self._images.list(request.filter.image.image))

    async def StreamImages(
        self, request: api_pb2.StreamImagesRequest, context: Any
    ) -> AsyncIterator[api_pb2.StreamImagesResponse]:
        found = await self._images.list(request.filter.image.image)
        for piece in pieces(api_pb2.StreamImagesResponse(images=found)):
            yield piece

    async def ImageStatus(
        self, request: api_pb2.ImageStatusRequest, context: Any
    ) -> api_pb2.ImageStatusResponse:
        return await self._images.status(request.image.image, verbose=request.verbose)

    async def PullImage(self, request: api_pb2.PullImageRequest, context: Any) -> api_pb2.PullImageResponse:
        name, pod = request.image.image, request.sandbox_config.metadata.uid
        async with self._failures.reported(image=name, pod_uid=pod):
            ref = await self._images.pull(name, request.auth, request.image.runtime_handler)
            return api_pb2.PullImageResponse(image_ref=ref)

    async def RemoveImage(
        self, request: api_pb2.RemoveImageRequest, context: Any
    ) -> api_pb2.RemoveImageResponse:
        await self._images.remove(request.image.image)
        return api_pb2.RemoveImageResponse()

    async def ImageFsInfo(
        self, request: api_pb2.ImageFsInfoRequest, context: Any
    ) -> api_pb2.ImageFsInfoResponse:
        return await self._images.filesystems()
