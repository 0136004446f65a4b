"""A CRI client over a node's socket, as a kubelet is one; for the demo, the tests and the benchmarks."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack

import grpc
from opentelemetry import propagate

from common.api.cri.v1 import api_pb2 as cri
from common.api.cri.v1 import api_pb2_grpc as cri_grpc

TIMEOUT_S = 120.0
Request = TypeVar("Request")
Answer = TypeVar("Answer")


class PodFields(TypedDict, total=False):
    """Fields of PodSandboxConfig that a caller may give."""

    hostname: str
    dns_config: cri.DNSConfig
    port_mappings: Iterable[cri.PortMapping]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    linux: cri.LinuxPodSandboxConfig
    windows: cri.WindowsPodSandboxConfig


class ContainerFields(TypedDict, total=False):
    """Fields of ContainerConfig that a caller may give."""

    args: Iterable[str]
    working_dir: str
    envs: Iterable[cri.KeyValue]
    mounts: Iterable[cri.Mount]
    devices: Iterable[cri.Device]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    stdin: bool
    stdin_once: bool
    tty: bool
    linux: cri.LinuxContainerConfig
    windows: cri.WindowsContainerConfig
    CDI_devices: Iterable[cri.CDIDevice]
    stop_signal: cri.Signal.ValueType


class Cri:
    """Both CRI services of one node, with the few steps that make a pod."""

    def __init__(self, channel: grpc.aio.Channel, logs: Path) -> None:
        self.runtime = cri_grpc.RuntimeServiceStub(channel)
        self.images = cri_grpc.ImageServiceStub(channel)
        self._logs = logs

    async def call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Request, Answer]",
        request: Request,
        timeout_s: float = TIMEOUT_S,
    ) -> Answer:
        """One call, with the current trace context."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return await self.answer(method(request, timeout=timeout_s, metadata=tuple(carrier.items())))

    async def answer(self, call: "grpc.aio.UnaryUnaryCall[Request, Answer]") -> Answer:
        """What a call that was made answers."""
        return await call

    async def pull(self, reference: str, sandbox: cri.PodSandboxConfig | None = None) -> str:
        request = cri.PullImageRequest(image=cri.ImageSpec(image=reference), sandbox_config=sandbox)
        return (await self.call(self.images.PullImage, request)).image_ref

    def sandbox_config(
        self, name: str, *, host_network: bool = False, **fields: Unpack[PodFields]
    ) -> cri.PodSandboxConfig:
        """A pod's configuration."""
        config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default"),
            log_directory=str(self._logs / name),
            **fields,
        )
        options = config.linux.security_context.namespace_options
        options.network = cri.NODE if host_network else cri.POD
        options.pid = cri.CONTAINER
        return config

    async def run_sandbox(self, config: cri.PodSandboxConfig, handler: str = "") -> str:
        Path(config.log_directory).mkdir(parents=True, exist_ok=True)
        request = cri.RunPodSandboxRequest(config=config, runtime_handler=handler)
        return (await self.call(self.runtime.RunPodSandbox, request)).pod_sandbox_id

    def container_config(
        self, name: str, image: str, command: list[str], **fields: Unpack[ContainerFields]
    ) -> cri.ContainerConfig:
        """A container's configuration, with the default seccomp profile."""
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name),
            image=cri.ImageSpec(image=image),
            command=command,
            log_path=f"{name}.log",
            **fields,
        )
        config.linux.security_context.seccomp.profile_type = cri.SecurityProfile.RuntimeDefault
        return config

    async def create(
        self, sandbox_id: str, config: cri.ContainerConfig, sandbox: cri.PodSandboxConfig
    ) -> str:
        request = cri.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config, sandbox_config=sandbox)
        return (await self.call(self.runtime.CreateContainer, request)).container_id

    async def start(self, container_id: str) -> None:
        await self.call(self.runtime.StartContainer, cri.StartContainerRequest(container_id=container_id))

    async def status(self, container_id: str) -> cri.ContainerStatus:
        request = cri.ContainerStatusRequest(container_id=container_id)
        return (await self.call(self.runtime.ContainerStatus, request)).status

    async def exec(self, container_id: str, command: list[str], timeout_s: int = 0) -> cri.ExecSyncResponse:
        request = cri.ExecSyncRequest(container_id=container_id, cmd=command, timeout=timeout_s)
        return await self.call(self.runtime.ExecSync, request)

    async def stop(self, container_id: str, timeout_s: int = 0) -> None:
        request = cri.StopContainerRequest(container_id=container_id, timeout=timeout_s)
        await self.call(self.runtime.StopContainer, request)

    async def remove(self, container_id: str) -> None:
        await self.call(self.runtime.RemoveContainer, cri.RemoveContainerRequest(container_id=container_id))

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self.call(self.runtime.StopPodSandbox, cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
        await self.call(self.runtime.RemovePodSandbox, cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))

    async def remove_all(self) -> None:
        """Stop and remove every sandbox of the node."""
        found = await self.call(self.runtime.ListPodSandbox, cri.ListPodSandboxRequest())
        for item in found.items:
            await self.remove_sandbox(item.id)


class Impatient(Cri):
    """One that can leave its calls; each of them ends as CANCELLED."""

    def __init__(self, channel: grpc.aio.Channel, logs: Path) -> None:
        super().__init__(channel, logs)
        self._calls: set[Any] = set()
        self._left: set[Any] = set()

    async def answer(self, call: "grpc.aio.UnaryUnaryCall[Request, Answer]") -> Answer:
        self._calls.add(call)
        try:
            return await call
        except asyncio.CancelledError:
            if call not in self._left:
                raise
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.CANCELLED, nothing, nothing, "its caller has left"
            ) from None
        finally:
            self._calls.discard(call)
            self._left.discard(call)

    def leave(self) -> int:
        """Leave the calls that are under way; how many."""
        self._left |= self._calls
        for call in self._calls:
            call.cancel()
        return len(self._calls)


@asynccontextmanager
async def connect(socket: str, logs: Path) -> AsyncIterator[Cri]:
    """Connect to a CRI socket; the logs of pods made here go to directories in `logs`."""
    async with _channel(socket) as channel:
        yield Cri(channel, logs)


@asynccontextmanager
async def connect_impatiently(socket: str, logs: Path) -> AsyncIterator[Impatient]:
    """As `connect`, for one that can leave its calls."""
    async with _channel(socket) as channel:
        yield Impatient(channel, logs)


def _channel(socket: str) -> grpc.aio.Channel:
    options = [("grpc.max_receive_message_length", 16 << 20), ("grpc.default_authority", "localhost")]
    return grpc.aio.insecure_channel(f"unix:{socket}", options=options)
