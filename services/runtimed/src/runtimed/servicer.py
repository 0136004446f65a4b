"""slipway.runtime.v1.Runtime: messages in, use case, messages out."""

from collections.abc import AsyncIterator
from typing import Any

import anyio

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.api.runtime.v1 import runtime_pb2_grpc as rpc
from runtimed.readings import families
from runtimed.record import Origin
from runtimed.service import Service
from runtimed.use.reports.overview import overview
from runtimed.use.sandbox.sandboxes import Manner


class RuntimeServicer(rpc.RuntimeServicer):
    """Thin: errors are mapped by the interceptor."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def RunPodSandbox(
        self, request: cri.RunPodSandboxRequest, context: Any
    ) -> cri.RunPodSandboxResponse:
        sandbox_id = await self._service.sandboxes.run(request.config, request.runtime_handler)
        return cri.RunPodSandboxResponse(pod_sandbox_id=sandbox_id)

    async def RunSandbox(self, request: pb.RunSandboxRequest, context: Any) -> cri.RunPodSandboxResponse:
        wanted = request.request
        manner = Manner(
            origin=Origin.COMMAND,
            isolated=request.isolated,
            sole_name=request.sole_name,
            remove_ended=request.remove_ended,
            remove_unstarted=request.remove_unstarted,
        )
        made = await self._service.sandboxes.run(wanted.config, wanted.runtime_handler, manner)
        return cri.RunPodSandboxResponse(pod_sandbox_id=made)

    async def StopPodSandbox(
        self, request: cri.StopPodSandboxRequest, context: Any
    ) -> cri.StopPodSandboxResponse:
        await self._service.sandboxes.stop(request.pod_sandbox_id)
        return cri.StopPodSandboxResponse()

    async def RemovePodSandbox(
        self, request: cri.RemovePodSandboxRequest, context: Any
    ) -> cri.RemovePodSandboxResponse:
        await self._service.sandboxes.remove(request.pod_sandbox_id)
        return cri.RemovePodSandboxResponse()

    async def PodSandboxStatus(
        self, request: cri.PodSandboxStatusRequest, context: Any
    ) -> cri.PodSandboxStatusResponse:
        return self._service.sandboxes.status(request.pod_sandbox_id, verbose=request.verbose)

    async def ListPodSandbox(
        self, request: cri.ListPodSandboxRequest, context: Any
    ) -> cri.ListPodSandboxResponse:
        return cri.ListPodSandboxResponse(items=self._service.sandboxes.list(request.filter))

    async def CreateContainer(
        self, request: pb.CreateContainerRequest, context: Any
    ) -> cri.CreateContainerResponse:
        return cri.CreateContainerResponse(container_id=await self._service.containers.create(request))

    async def StartContainer(
        self, request: cri.StartContainerRequest, context: Any
    ) -> cri.StartContainerResponse:
        await self._service.tasks.start(request.container_id)
        return cri.StartContainerResponse()

    async def StopContainer(
        self, request: cri.StopContainerRequest, context: Any
    ) -> cri.StopContainerResponse:
        await self._service.tasks.stop(request.container_id, request.timeout)
        return cri.StopContainerResponse()

    async def RemoveContainer(
        self, request: cri.RemoveContainerRequest, context: Any
    ) -> cri.RemoveContainerResponse:
        await self._service.containers.remove(request.container_id)
        return cri.RemoveContainerResponse()

    async def ListContainers(
        self, request: cri.ListContainersRequest, context: Any
    ) -> cri.ListContainersResponse:
        return cri.ListContainersResponse(containers=self._service.containers.list(request.filter))

    async def ContainerStatus(
        self, request: cri.ContainerStatusRequest, context: Any
    ) -> cri.ContainerStatusResponse:
        return await self._service.containers.status(request.container_id, verbose=request.verbose)

    async def UpdateContainerResources(
        self, request: cri.UpdateContainerResourcesRequest, context: Any
    ) -> cri.UpdateContainerResourcesResponse:
        await self._service.limits.update(request)
        return cri.UpdateContainerResourcesResponse()

    async def ReopenContainerLog(
        self, request: cri.ReopenContainerLogRequest, context: Any
    ) -> cri.ReopenContainerLogResponse:
        await self._service.logs.reopen(request.container_id)
        return cri.ReopenContainerLogResponse()

    async def ExecSync(self, request: cri.ExecSyncRequest, context: Any) -> cri.ExecSyncResponse:
        return await self._service.execs.sync(request)

    async def StartAgain(self, request: pb.StartAgainRequest, context: Any) -> pb.StartAgainResponse:
        await self._service.tasks.start_again(request.container_id)
        return pb.StartAgainResponse()

    async def PauseContainer(
        self, request: pb.PauseContainerRequest, context: Any
    ) -> pb.PauseContainerResponse:
        await self._service.holds.pause(request.container_id)
        return pb.PauseContainerResponse()

    async def ResumeContainer(
        self, request: pb.ResumeContainerRequest, context: Any
    ) -> pb.ResumeContainerResponse:
        await self._service.holds.resume(request.container_id)
        return pb.ResumeContainerResponse()

    async def KeepContainer(
        self, request: pb.KeepContainerRequest, context: Any
    ) -> AsyncIterator[pb.KeepContainerResponse]:
        with self._service.departures.keep(request.container_id):
            yield pb.KeepContainerResponse()
            await anyio.sleep_forever()

    async def SignalContainer(
        self, request: pb.SignalContainerRequest, context: Any
    ) -> pb.SignalContainerResponse:
        await self._service.signals.send(request.container_id, request.signal)
        return pb.SignalContainerResponse()

    async def Overview(self, request: pb.OverviewRequest, context: Any) -> pb.OverviewResponse:
        return overview(self._service.parts)

    async def OverviewStats(
        self, request: pb.OverviewRequest, context: Any
    ) -> cri.ListContainerStatsResponse:
        return cri.ListContainerStatsResponse(stats=await self._service.stats.running())

    async def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.Explanation:
        return await self._service.reasons.explain(request.name, request.log_lines)

    async def ReportFailure(self, request: pb.ReportFailureRequest, context: Any) -> pb.ReportFailureResponse:
        await self._service.reasons.report(request)
        return pb.ReportFailureResponse()

    async def PrepareExec(self, request: pb.PrepareExecRequest, context: Any) -> pb.ShimAddress:
        return await self._service.execs.prepare(request)

    async def PrepareAttach(self, request: pb.PrepareAttachRequest, context: Any) -> pb.ShimAddress:
        return self._service.execs.prepare_attach(request)

    async def PreparePortForward(
        self, request: pb.PreparePortForwardRequest, context: Any
    ) -> pb.SandboxNetwork:
        return pb.SandboxNetwork(netns_path=self._service.sandboxes.netns_path(request.pod_sandbox_id))

    async def ContainerStats(
        self, request: cri.ContainerStatsRequest, context: Any
    ) -> cri.ContainerStatsResponse:
        return cri.ContainerStatsResponse(stats=await self._service.stats.container(request.container_id))

    async def ListContainerStats(
        self, request: cri.ListContainerStatsRequest, context: Any
    ) -> cri.ListContainerStatsResponse:
        return cri.ListContainerStatsResponse(stats=await self._service.stats.containers(request.filter))

    async def PodSandboxStats(
        self, request: cri.PodSandboxStatsRequest, context: Any
    ) -> cri.PodSandboxStatsResponse:
        return cri.PodSandboxStatsResponse(stats=await self._service.stats.sandbox(request.pod_sandbox_id))

    async def ListPodSandboxStats(
        self, request: cri.ListPodSandboxStatsRequest, context: Any
    ) -> cri.ListPodSandboxStatsResponse:
        return cri.ListPodSandboxStatsResponse(stats=await self._service.stats.sandboxes(request.filter))

    async def ListMetricDescriptors(
        self, request: cri.ListMetricDescriptorsRequest, context: Any
    ) -> cri.ListMetricDescriptorsResponse:
        return cri.ListMetricDescriptorsResponse(descriptors=families.descriptors())

    async def ListPodSandboxMetrics(
        self, request: cri.ListPodSandboxMetricsRequest, context: Any
    ) -> cri.ListPodSandboxMetricsResponse:
        return cri.ListPodSandboxMetricsResponse(pod_metrics=await self._service.metrics.pods())

    async def UpdatePodSandboxResources(
        self, request: cri.UpdatePodSandboxResourcesRequest, context: Any
    ) -> cri.UpdatePodSandboxResourcesResponse:
        await self._service.limits.update_pod(request)
        return cri.UpdatePodSandboxResourcesResponse()

    async def CheckpointContainer(
        self, request: cri.CheckpointContainerRequest, context: Any
    ) -> cri.CheckpointContainerResponse:
        await self._service.checkpoints.container(request)
        return cri.CheckpointContainerResponse()

    async def CheckpointPod(
        self, request: cri.CheckpointPodRequest, context: Any
    ) -> cri.CheckpointPodResponse:
        await self._service.checkpoints.pod(request, context.time_remaining())
        return cri.CheckpointPodResponse()

    async def RestorePod(self, request: pb.RestorePodRequest, context: Any) -> cri.RestorePodResponse:
        return await self._service.restores.pod(request)

    async def GetContainerEvents(
        self, request: cri.GetEventsRequest, context: Any
    ) -> AsyncIterator[cri.ContainerEventResponse]:
        with self._service.parts.feed.listen() as events:
            await context.send_initial_metadata(())  # from here on nothing is missed
            async for event in events:
                yield event

    async def Status(self, request: cri.StatusRequest, context: Any) -> cri.StatusResponse:
        return await self._service.node.status(verbose=request.verbose)

    async def RuntimeConfig(
        self, request: cri.RuntimeConfigRequest, context: Any
    ) -> cri.RuntimeConfigResponse:
        return self._service.node.config()

    async def UpdateRuntimeConfig(
        self, request: cri.UpdateRuntimeConfigRequest, context: Any
    ) -> cri.UpdateRuntimeConfigResponse:
        await self._service.node.update_config(request)
        return cri.UpdateRuntimeConfigResponse()
