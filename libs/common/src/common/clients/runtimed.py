"""Client of runtimed: the CRI calls that crid does not pass on as they are, and those of the command line."""

from collections.abc import AsyncIterator, Sequence

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.api.runtime.v1 import runtime_pb2_grpc as rpc
from common.rpc.channel import channel

SANDBOX_TIMEOUT_S = 240.0


class RuntimedClient:
    """Sandboxes and containers, over runtimed's socket. Every method raises common.errors.

    Args:
        socket_path: runtimed's socket.
        timeout_s: deadline of a call that waits for nothing longer.
    """

    def __init__(self, socket_path: str, timeout_s: float = 120) -> None:
        self._channel = channel(socket_path)
        self.stub = rpc.RuntimeStub(self._channel)
        """For the calls that need no help."""
        self._timeout_s = timeout_s

    async def run_sandbox(self, config: cri.PodSandboxConfig, handler: str = "") -> str:
        """Set up a sandbox; the same again returns the same id."""
        request = cri.RunPodSandboxRequest(config=config, runtime_handler=handler)
        return (await self.stub.RunPodSandbox(request, timeout=SANDBOX_TIMEOUT_S)).pod_sandbox_id

    async def stop_sandbox(self, sandbox_id: str) -> None:
        request = cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self.stub.StopPodSandbox(request, timeout=SANDBOX_TIMEOUT_S)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        request = cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self.stub.RemovePodSandbox(request, timeout=SANDBOX_TIMEOUT_S)

    async def sandbox_status(self, sandbox_id: str, *, verbose: bool = False) -> cri.PodSandboxStatusResponse:
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=verbose)
        return await self.stub.PodSandboxStatus(request, timeout=self._timeout_s)

    async def list_sandboxes(self, wanted: cri.PodSandboxFilter | None = None) -> list[cri.PodSandbox]:
        request = cri.ListPodSandboxRequest(filter=wanted)
        return list((await self.stub.ListPodSandbox(request, timeout=self._timeout_s)).items)

    async def create_container(
        self,
        sandbox_id: str,
        config: cri.ContainerConfig,
        sandbox_config: cri.PodSandboxConfig,
        image: pb.ResolvedImage,
    ) -> str:
        """Make a container; the same again returns the same id."""
        inner = cri.CreateContainerRequest(
            pod_sandbox_id=sandbox_id, config=config, sandbox_config=sandbox_config
        )
        request = pb.CreateContainerRequest(request=inner, image=image)
        return (await self.stub.CreateContainer(request, timeout=SANDBOX_TIMEOUT_S)).container_id

    async def start_container(self, container_id: str) -> None:
        request = cri.StartContainerRequest(container_id=container_id)
        await self.stub.StartContainer(request, timeout=SANDBOX_TIMEOUT_S)

    async def stop_container(self, container_id: str, timeout_s: int = 0) -> None:
        request = cri.StopContainerRequest(container_id=container_id, timeout=timeout_s)
        await self.stub.StopContainer(request, timeout=self._timeout_s + timeout_s)

    async def remove_container(self, container_id: str) -> None:
        request = cri.RemoveContainerRequest(container_id=container_id)
        await self.stub.RemoveContainer(request, timeout=self._timeout_s)

    async def container_status(
        self, container_id: str, *, verbose: bool = False
    ) -> cri.ContainerStatusResponse:
        request = cri.ContainerStatusRequest(container_id=container_id, verbose=verbose)
        return await self.stub.ContainerStatus(request, timeout=self._timeout_s)

    async def list_containers(self, wanted: cri.ContainerFilter | None = None) -> list[cri.Container]:
        request = cri.ListContainersRequest(filter=wanted)
        return list((await self.stub.ListContainers(request, timeout=self._timeout_s)).containers)

    async def exec_sync(
        self, container_id: str, cmd: Sequence[str], timeout_s: int = 0
    ) -> cri.ExecSyncResponse:
        """Run a command; 0 s is no timeout."""
        request = cri.ExecSyncRequest(container_id=container_id, cmd=cmd, timeout=timeout_s)
        deadline_s = timeout_s + self._timeout_s if timeout_s else None
        return await self.stub.ExecSync(request, timeout=deadline_s)

    async def prepare_attach(self, container_id: str) -> pb.ShimAddress:
        """Where to stream a container's stdio."""
        request = pb.PrepareAttachRequest(container_id=container_id)
        return await self.stub.PrepareAttach(request, timeout=self._timeout_s)

    async def list_container_stats(
        self, wanted: cri.ContainerStatsFilter | None = None
    ) -> list[cri.ContainerStats]:
        request = cri.ListContainerStatsRequest(filter=wanted)
        return list((await self.stub.ListContainerStats(request, timeout=self._timeout_s)).stats)

    async def overview(self) -> pb.OverviewResponse:
        """All pods and containers, whoever made them; CRI's lists lack what the command made."""
        return await self.stub.Overview(pb.OverviewRequest(), timeout=self._timeout_s)

    async def overview_stats(self) -> list[cri.ContainerStats]:
        """Of all containers that run, whoever made them."""
        return list((await self.stub.OverviewStats(pb.OverviewRequest(), timeout=self._timeout_s)).stats)

    async def status(self, *, verbose: bool = False) -> cri.StatusResponse:
        return await self.stub.Status(cri.StatusRequest(verbose=verbose), timeout=self._timeout_s)

    async def events(self) -> AsyncIterator[cri.ContainerEventResponse]:
        """What happens from now on, for as long as the caller listens."""
        async for event in self.stub.GetContainerEvents(cri.GetEventsRequest()):
            yield event

    async def close(self) -> None:
        await self._channel.close()
