"""The containers that a build works in, all in one pod of its own, which goes with the build."""

import json
import os
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from slipway.building.workspace import Workspace
from slipway.connect import OWNER, TIMEOUT_S, Node, log_root
from slipway.containers.creation import run_sandbox
from slipway.containers.ending import final_code
from slipway.containers.images import NEVER, resolve
from slipway.containers.removal import remove_pod
from slipway.files import Place
from slipway.options.request import NAMESPACE
from slipway.options.security import MASKED_PATHS, READONLY_PATHS
from slipway.output import logfile

POLL_S = 0.03
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """What a container is to be."""

    image: str
    command: Sequence[str] = ("/bin/true",)
    environment: dict[str, str] = field(default_factory=dict)
    mounts: Sequence[cri.Mount] = ()


class Worker:
    """Makes containers in the pod of a build; `close` removes all.

    Args:
        on: the node.
        network: "pod" or "host".
        space: of the build; its pod has that uid.
    """

    def __init__(self, on: Node, network: str, space: Workspace) -> None:
        self._on, self._network = on, network
        self.space = space
        self._config = cri.PodSandboxConfig()
        self._pod = ""
        self._lock = anyio.Lock()

    async def create(self, job: Job) -> str:
        """A container that was not started; returns its id, which is its snapshot's too."""
        name = f"build-{uuid.uuid4().hex[:12]}"
        async with self._lock:
            if not self._pod:
                await self._start_pod(name)
        image = await resolve(self._on, job.image, NEVER)
        image.config = _without_volumes(image.config)
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name),
            image=cri.ImageSpec(image=image.id, user_specified_image=job.image),
            command=job.command,
            envs=[cri.KeyValue(key=k, value=v.encode()) for k, v in job.environment.items()],
            mounts=job.mounts,
            labels={OWNER: "run"},
            log_path=f"{name}.log",
        )
        security = config.linux.security_context
        security.namespace_options.CopyFrom(self._namespaces())
        security.masked_paths.extend(MASKED_PATHS)
        security.readonly_paths.extend(READONLY_PATHS)
        security.seccomp.profile_type = cri.SecurityProfile.RuntimeDefault
        request = cri.CreateContainerRequest(
            pod_sandbox_id=self._pod, config=config, sandbox_config=self._config
        )
        wanted = pb.CreateContainerRequest(request=request, image=image)
        return str((await self._on.backend.CreateContainer(wanted)).container_id)

    async def root(self, container_id: str) -> str:
        """Where its file system is."""
        request = cri.ContainerStatusRequest(container_id=container_id, verbose=True)
        answer = await self._on.runtime.ContainerStatus(request)
        return str(json.loads(answer.info["info"])["rootfs"])

    @asynccontextmanager
    async def place(self, container_id: str) -> AsyncIterator[Place]:
        """Its file system, for as long as the block runs."""
        fd = os.open(await self.root(container_id), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield Place(fd)
        finally:
            os.close(fd)

    async def within(self, container_id: str, work: Callable[[Place], T]) -> T:
        """Work on its file system, in a thread."""
        async with self.place(container_id) as place:
            return await anyio.to_thread.run_sync(work, place)

    async def run(self, container_id: str, show: Callable[[bytes], None]) -> int:
        """Start it, and show its output until it ends; returns its exit code."""
        asked = cri.ContainerStatusRequest(container_id=container_id)
        log = logfile.LogFile(str((await self._on.runtime.ContainerStatus(asked)).status.log_path))
        await self._on.runtime.StartContainer(cri.StartContainerRequest(container_id=container_id))
        codes: list[int] = []
        ended = anyio.Event()

        async def wait() -> None:
            codes.append(await final_code(self._on, container_id))
            ended.set()

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            last = False
            while not last:
                last = ended.is_set()
                for record in log.records():
                    show(record.output)
                with anyio.move_on_after(POLL_S):
                    await ended.wait()
        log.close()
        return codes[0]

    async def remove(self, container_id: str) -> None:
        """Remove a container."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(TIMEOUT_S):
            await self._on.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=container_id))

    @asynccontextmanager
    async def container(self, job: Job) -> AsyncIterator[str]:
        """A container for as long as the block runs."""
        container_id = await self.create(job)
        try:
            yield container_id
        finally:
            await self.remove(container_id)

    async def close(self) -> None:
        """Remove the pod with all that is left in it."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(TIMEOUT_S):
            await remove_pod(self._on, self._pod, self.space.uid)

    async def _start_pod(self, name: str) -> None:
        self._config.CopyFrom(
            cri.PodSandboxConfig(
                metadata=cri.PodSandboxMetadata(name=name, uid=self.space.uid, namespace=NAMESPACE),
                log_directory=f"{log_root(self._on.run_dir)}/{self.space.uid}",
                labels={OWNER: "run"},
                hostname="" if self._network == "host" else "buildkitsandbox",
            )
        )
        self._config.linux.security_context.namespace_options.CopyFrom(self._namespaces())
        Path(self._config.log_directory).mkdir(parents=True, mode=0o750, exist_ok=True)
        request = pb.RunSandboxRequest(request=cri.RunPodSandboxRequest(config=self._config))
        self._pod = await run_sandbox(self._on, request)

    def _namespaces(self) -> cri.NamespaceOption:
        network = cri.NODE if self._network == "host" else cri.POD
        return cri.NamespaceOption(network=network, pid=cri.CONTAINER, ipc=cri.POD)


def _without_volumes(config: bytes) -> bytes:
    """What a command writes below a VOLUME is in the image, as with BuildKit; on a volume it would go with that."""
    found = json.loads(config)
    if (found.get("config") or {}).pop("Volumes", None) is None:
        return config
    return json.dumps(found).encode()
