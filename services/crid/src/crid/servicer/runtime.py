"""runtime.v1.RuntimeService.

Most calls have the same messages in slipway.runtime.v1, so their bytes go to runtimed and back as they are,
undecoded. The rest is decoded here: what needs an image, and what is answered with a URL.
"""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from common.api.cri.v1 import api_pb2
from common.api.runtime.v1 import runtime_pb2
from common.failpoint import failpoint
from crid.failures import Failures
from crid.images import Images
from crid.servicer import lists
from crid.servicer.lists import BACKEND
from crid.servicer.streaming import Streams
from crid.version import RUNTIME_API_VERSION, RUNTIME_NAME, RUNTIME_VERSION, VERSION

SERVICE = "runtime.v1.RuntimeService"
FORWARDED = (
    *("RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "PodSandboxStatus", "ListPodSandbox"),
    *("StartContainer", "StopContainer", "RemoveContainer", "ListContainers", "ContainerStatus"),
    *("UpdateContainerResources", "ReopenContainerLog", "ExecSync"),
    *("ContainerStats", "ListContainerStats", "PodSandboxStats", "ListPodSandboxStats"),
    *("ListMetricDescriptors", "ListPodSandboxMetrics", "UpdatePodSandboxResources"),
    *("CheckpointContainer", "CheckpointPod"),
    *("Status", "RuntimeConfig", "UpdateRuntimeConfig"),
)


def register(
    server: grpc.aio.Server, runtimed: grpc.aio.Channel, images: Images, streams: Streams, failures: Failures
) -> None:
    """Answer RuntimeService on a server."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        name: _forward(runtimed, name) for name in FORWARDED
    }
    handlers |= lists.handlers(runtimed)
    handlers["GetContainerEvents"] = _forward_stream(runtimed, "GetContainerEvents")
    handlers["Version"] = grpc.unary_unary_rpc_method_handler(
        _version, api_pb2.VersionRequest.FromString, api_pb2.VersionResponse.SerializeToString
    )
    handlers["CreateContainer"] = grpc.unary_unary_rpc_method_handler(
        _create(runtimed, images, failures),
        api_pb2.CreateContainerRequest.FromString,
        api_pb2.CreateContainerResponse.SerializeToString,
    )
    handlers["RestorePod"] = grpc.unary_unary_rpc_method_handler(
        _restore(runtimed, images),
        api_pb2.RestorePodRequest.FromString,
        api_pb2.RestorePodResponse.SerializeToString,
    )
    for name, answer in (
        ("Exec", streams.exec),
        ("Attach", streams.attach),
        ("PortForward", streams.port_forward),
    ):
        handlers[name] = grpc.unary_unary_rpc_method_handler(
            answer,
            getattr(api_pb2, f"{name}Request").FromString,
            getattr(api_pb2, f"{name}Response").SerializeToString,
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def _forward(runtimed: grpc.aio.Channel, name: str) -> Any:
    call: Any = runtimed.unary_unary(f"{BACKEND}/{name}")

    async def forward(request: bytes, context: Any) -> bytes:
        answer: bytes = await call(request, timeout=context.time_remaining())
        return answer

    return grpc.unary_unary_rpc_method_handler(forward)


def _forward_stream(runtimed: grpc.aio.Channel, name: str) -> Any:
    call: Any = runtimed.unary_stream(f"{BACKEND}/{name}")

    async def forward(request: bytes, context: Any) -> AsyncIterator[bytes]:
        stream = call(request, timeout=context.time_remaining())
        await context.send_initial_metadata(await stream.initial_metadata())
        async for item in stream:
            yield item

    return grpc.unary_stream_rpc_method_handler(forward)


async def _version(_request: api_pb2.VersionRequest, _context: Any) -> api_pb2.VersionResponse:
    return api_pb2.VersionResponse(
        version=VERSION,
        runtime_name=RUNTIME_NAME,
        runtime_version=RUNTIME_VERSION,
        runtime_api_version=RUNTIME_API_VERSION,
    )


def _create(runtimed: grpc.aio.Channel, images: Images, failures: Failures) -> Any:
    call: Any = runtimed.unary_unary(
        f"{BACKEND}/CreateContainer",
        runtime_pb2.CreateContainerRequest.SerializeToString,
        api_pb2.CreateContainerResponse.FromString,
    )

    async def create(
        request: api_pb2.CreateContainerRequest, context: Any
    ) -> api_pb2.CreateContainerResponse:
        config = request.config
        async with failures.reported(
            image=config.image.image, name=config.metadata.name, pod_sandbox_id=request.pod_sandbox_id
        ):
            wanted = await _resolved(request, images)
        await failpoint("crid.create.resolved")
        answer: api_pb2.CreateContainerResponse = await call(wanted, timeout=context.time_remaining())
        return answer

    return create


def _restore(runtimed: grpc.aio.Channel, images: Images) -> Any:
    call: Any = runtimed.unary_unary(
        f"{BACKEND}/RestorePod",
        runtime_pb2.RestorePodRequest.SerializeToString,
        api_pb2.RestorePodResponse.FromString,
    )

    async def restore(request: api_pb2.RestorePodRequest, context: Any) -> api_pb2.RestorePodResponse:
        containers = [
            await _resolved(
                api_pb2.CreateContainerRequest(config=config, sandbox_config=request.config), images
            )
            for config in request.container_configs
        ]
        wanted = runtime_pb2.RestorePodRequest(request=request, containers=containers)
        answer: api_pb2.RestorePodResponse = await call(wanted, timeout=context.time_remaining())
        return answer

    return restore


async def _resolved(
    request: api_pb2.CreateContainerRequest, images: Images
) -> runtime_pb2.CreateContainerRequest:
    """A container's request with its images; notes in it which ones they are."""
    image = await images.resolve(request.config.image.image)
    mounted: dict[str, runtime_pb2.ResolvedImage] = {}
    for mount in request.config.mounts:
        if name := mount.image.image:
            mounted[name] = mounted.get(name) or await images.resolve(name, "config.mounts.image.image")
            mount.image.image_ref = mounted[name].id  # what PullImage has answered
    return runtime_pb2.CreateContainerRequest(request=request, image=image, mount_images=mounted)
