"""Who is interrupted while a pod is made leaves none."""

from pathlib import Path

import anyio
import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import UnavailableError
from slipway.connect import Node
from slipway.containers.creation import run_sandbox

pytestmark = pytest.mark.anyio


class _Service:
    """crid and runtimed, which makes a pod to its end also for who does not wait."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.asked = anyio.Event()
        self.made: list[str] = []
        self.removed: list[str] = []

    async def RunSandbox(self, request: pb.RunSandboxRequest) -> cri.RunPodSandboxResponse:
        if self._error is not None:
            raise self._error
        uid = request.request.config.metadata.uid
        if uid not in self.made:
            self.made.append(uid)
            self.asked.set()
            await anyio.sleep_forever()
        return cri.RunPodSandboxResponse(pod_sandbox_id=f"id of {uid}")

    async def StopPodSandbox(self, _request: cri.StopPodSandboxRequest) -> None:
        pass

    async def RemovePodSandbox(self, request: cri.RemovePodSandboxRequest) -> None:
        self.removed.append(request.pod_sandbox_id)


def _request() -> pb.RunSandboxRequest:
    config = cri.PodSandboxConfig(metadata=cri.PodSandboxMetadata(name="n", uid="u"))
    return pb.RunSandboxRequest(request=cri.RunPodSandboxRequest(config=config))


async def test_a_pod_that_was_being_made_is_removed(tmp_path: Path) -> None:
    service = _Service()
    async with anyio.create_task_group() as group:
        group.start_soon(run_sandbox, Node(str(tmp_path), service, None, service), _request())
        await service.asked.wait()
        group.cancel_scope.cancel()
    assert (service.made, service.removed) == (["u"], ["id of u"])


async def test_a_pod_that_cannot_be_made_is_not_asked_for_again(tmp_path: Path) -> None:
    service = _Service(UnavailableError("away"))
    with pytest.raises(UnavailableError):
        await run_sandbox(Node(str(tmp_path), service, None, service), _request())
    assert not service.removed
