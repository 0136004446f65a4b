"""slipway.shims.v1: proto in, service call, proto out."""

from typing import TYPE_CHECKING, Any

from common.api.shims.v1 import shims_pb2 as pb
from common.api.shims.v1 import shims_pb2_grpc as rpc
from shimd.service import Found, ShimService

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]


class Servicer(rpc.ShimsServicer):
    """Converts; the service decides."""

    def __init__(self, service: ShimService) -> None:
        self._service = service

    async def Spawn(self, request: pb.SpawnRequest, context: "Context") -> pb.Shim:
        return self._shim(await self._service.spawn(_spec(request)))

    async def List(self, request: pb.ListRequest, context: "Context") -> pb.ListResponse:
        shims = [self._shim(found) for found in await self._service.list_shims()]
        pauses = [_pause(found) for found in await self._service.list_pauses()]
        return pb.ListResponse(shims=shims, pauses=pauses)

    async def Remove(self, request: pb.RemoveRequest, context: "Context") -> pb.RemoveResponse:
        await self._service.remove(request.container_id, force=request.force)
        return pb.RemoveResponse()

    async def SpawnPause(self, request: pb.SpawnPauseRequest, context: "Context") -> pb.Pause:
        return _pause(await self._service.spawn_pause(request.sandbox_id, request.user_namespace))

    async def RemovePause(self, request: pb.RemovePauseRequest, context: "Context") -> pb.RemovePauseResponse:
        await self._service.remove_pause(request.sandbox_id)
        return pb.RemovePauseResponse()

    def _shim(self, found: Found) -> pb.Shim:
        path = self._service.socket_path(found.id)
        return pb.Shim(container_id=found.id, pid=found.pid, alive=found.alive, socket_path=path)


def _pause(found: Found) -> pb.Pause:
    return pb.Pause(sandbox_id=found.id, pid=found.pid, alive=found.alive)


def _spec(request: pb.SpawnRequest) -> dict[str, Any]:
    runtime = request.runtime
    return {
        "container_id": request.container_id,
        "bundle_path": request.bundle_path,
        "runtime": {
            "binary": runtime.binary,
            "args": list(runtime.args),
            "root": runtime.root,
            "sandboxed": runtime.sandboxed,
        },
        "log_path": request.log_path,
        "tty": request.tty,
        "stdin": request.stdin,
        "stdin_once": request.stdin_once,
        "memory_cgroup_path": request.memory_cgroup_path,
        "pids_cgroup_path": request.pids_cgroup_path,
        "max_line_bytes": request.max_line_bytes,
        "record_dir": request.record_dir,
    }
