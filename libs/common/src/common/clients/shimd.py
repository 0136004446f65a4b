"""Client of shimd: starts shims and finds them again. All else goes to the shim itself (common.clients.shim)."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.api.shims.v1 import shims_pb2 as pb
from common.api.shims.v1 import shims_pb2_grpc as rpc
from common.rpc.channel import channel


@dataclass(frozen=True, kw_only=True)
class Shim:
    """A shim with a directory, alive or dead."""

    container_id: str
    pid: int
    socket_path: str
    alive: bool


@dataclass(frozen=True, kw_only=True)
class Pause:
    """The pid 1 of a sandbox's shared PID namespace."""

    sandbox_id: str
    pid: int
    alive: bool


class ShimdClient:
    """Calls to shimd; each raises common.errors and has a deadline."""

    def __init__(self, socket_path: str, timeout_s: float = 30) -> None:
        self._channel = channel(socket_path)
        self._stub = rpc.ShimsStub(self._channel)
        self._timeout_s = timeout_s

    async def spawn(
        self,
        container_id: str,
        *,
        bundle_path: str,
        runtime_binary: str,
        record_dir: str,
        runtime_root: str = "",
        runtime_args: Sequence[str] = (),
        sandboxed: bool = False,
        log_path: str = "",
        tty: bool = False,
        stdin: bool = False,
        stdin_once: bool = False,
        memory_cgroup_path: str = "",
        pids_cgroup_path: str = "",
        max_line_bytes: int = 0,
    ) -> Shim:
        """Fork a shim that waits for `start`; the living one of this container, if there is one."""
        request = pb.SpawnRequest(
            container_id=container_id,
            bundle_path=bundle_path,
            runtime=pb.OciRuntime(
                binary=runtime_binary, args=runtime_args, root=runtime_root, sandboxed=sandboxed
            ),
            log_path=log_path,
            tty=tty,
            stdin=stdin,
            stdin_once=stdin_once,
            memory_cgroup_path=memory_cgroup_path,
            pids_cgroup_path=pids_cgroup_path,
            max_line_bytes=max_line_bytes,
            record_dir=record_dir,
        )
        return _shim(await self._stub.Spawn(request, timeout=self._timeout_s))

    async def list(self) -> tuple[Sequence[Shim], Sequence[Pause]]:
        """All that have a directory, alive or dead."""
        answer = await self._stub.List(pb.ListRequest(), timeout=self._timeout_s)
        return [_shim(shim) for shim in answer.shims], [_pause(pause) for pause in answer.pauses]

    async def remove(self, container_id: str, *, force: bool = False) -> None:
        """End a shim whose container does not run, or by force it and its container. Idempotent.

        Raises:
            FailedPreconditionError: the container runs.
        """
        request = pb.RemoveRequest(container_id=container_id, force=force)
        await self._stub.Remove(request, timeout=self._timeout_s)

    async def spawn_pause(self, sandbox_id: str, user_namespace: str = "") -> Pause:
        request = pb.SpawnPauseRequest(sandbox_id=sandbox_id, user_namespace=user_namespace)
        return _pause(await self._stub.SpawnPause(request, timeout=self._timeout_s))

    async def remove_pause(self, sandbox_id: str) -> None:
        """Kill a pause and all of its PID namespace. Idempotent."""
        await self._stub.RemovePause(pb.RemovePauseRequest(sandbox_id=sandbox_id), timeout=self._timeout_s)

    async def close(self) -> None:
        await self._channel.close()


def _shim(shim: pb.Shim) -> Shim:
    return Shim(container_id=shim.container_id, pid=shim.pid, socket_path=shim.socket_path, alive=shim.alive)


def _pause(pause: pb.Pause) -> Pause:
    return Pause(sandbox_id=pause.sandbox_id, pid=pause.pid, alive=pause.alive)
