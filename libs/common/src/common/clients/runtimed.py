"""Client of runtimed: what opsd asks of it; crid and the command have stubs of their own."""

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.api.runtime.v1 import runtime_pb2_grpc as rpc
from common.rpc.channel import channel

SANDBOX_TIMEOUT_S = 240.0
"""For a call that waits for network plugins."""


class RuntimedClient:
    """Sandboxes and containers, over runtimed's socket. Every method raises common.errors.

    Args:
        socket_path: runtimed's socket.
        timeout_s: deadline of every call but those that stop or remove a sandbox; a container's stop has its grace besides.
    """

    def __init__(self, socket_path: str, timeout_s: float = 120) -> None:
        self._channel = channel(socket_path)
        self.stub = rpc.RuntimeStub(self._channel)
        """For the calls that need no help."""
        self._timeout_s = timeout_s

    async def stop_sandbox(self, sandbox_id: str) -> None:
        request = cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self.stub.StopPodSandbox(request, timeout=SANDBOX_TIMEOUT_S)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        request = cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self.stub.RemovePodSandbox(request, timeout=SANDBOX_TIMEOUT_S)

    async def sandbox_status(self, sandbox_id: str, *, verbose: bool = False) -> cri.PodSandboxStatusResponse:
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=verbose)
        return await self.stub.PodSandboxStatus(request, timeout=self._timeout_s)

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

    async def overview(self) -> pb.OverviewResponse:
        """All pods and containers, whoever made them; CRI's lists lack what the command made."""
        return await self.stub.Overview(pb.OverviewRequest(), timeout=self._timeout_s)

    async def overview_stats(self) -> list[cri.ContainerStats]:
        """Of all containers that run, whoever made them."""
        return list((await self.stub.OverviewStats(pb.OverviewRequest(), timeout=self._timeout_s)).stats)

    async def status(self, *, verbose: bool = False) -> cri.StatusResponse:
        return await self.stub.Status(cri.StatusRequest(verbose=verbose), timeout=self._timeout_s)

    async def close(self) -> None:
        await self._channel.close()
