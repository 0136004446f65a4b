"""The daemons that runtimed works with, as processes of a test module's own, and pods to run on them."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.clients.runtimed import SANDBOX_TIMEOUT_S, RuntimedClient
from common.clients.snapshotd import SnapshotdClient
from common.errors import UnavailableError
from common.sys.mounts import ensure_shared, unmount_below
from node.health import trouble
from tests.support.brokers import RedisServer, nats_server, redis_server
from tests.support.eventually import eventually, until
from tests.support.pace import patience
from tests.support.service import started

DEADLINE_S = patience(30)


def needs(*programs: str) -> list[pytest.MarkDecorator]:
    """The marks of a module whose pods are run by these programs."""
    there = os.geteuid() == 0 and all(map(shutil.which, ("busybox", *programs)))
    return [
        pytest.mark.anyio,
        pytest.mark.root,
        pytest.mark.integration,
        pytest.mark.timeout(120),
        pytest.mark.skipif(not there, reason=f"needs root, busybox, {', '.join(programs)}"),
    ]


def executable(path: Path, script: str) -> Path:
    path.write_text(script)
    path.chmod(0o755)
    return path


def handler(name: str, program: Path) -> dict[str, str]:
    """Settings by which this program is the OCI runtime of a name."""
    return {"handlers": json.dumps({name: {"binary": str(program)}}), "default_handler": name}


@dataclass
class Daemons:
    """snapshotd, shimd and runtimed of one test module."""

    base: Path
    programs: Path
    """Where network plugins are; no program below /run starts where systemd has mounted it."""
    redis: RedisServer
    settings: dict[str, str]
    """Of all three."""
    runtimed: dict[str, str]
    """What runtimed has besides, from its next start on."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Start it; one that was there before serves again when this returns."""
        again = name in self.processes
        settings = self.settings | (self.runtimed if name == "runtimed" else {})
        self.processes[name] = started(name, self.base / f"{name}.log", settings)
        if again:
            socket = str(self.base / "run" / f"{name}.sock")
            eventually(lambda: not trouble("grpc", socket), within_s=30, what=f"{name} to serve again")

    def kill(self, name: str) -> None:
        process = self.processes[name]
        process.kill()
        process.wait(10)

    @property
    def program(self) -> Path:
        """The OCI runtime that `handler` has named."""
        handlers = json.loads(self.runtimed["handlers"])
        return Path(handlers[self.runtimed["default_handler"]]["binary"])

    @property
    def socket(self) -> str:
        return str(self.base / "run" / "runtimed.sock")


@contextmanager
def running_daemons(**runtimed: str) -> Iterator[Daemons]:
    """All three, with settings of runtimed."""
    name = f"slipway-test-{uuid.uuid4().hex[:8]}"
    base, programs = Path("/run", name), Path(tempfile.mkdtemp(prefix=f"{name}-"))
    base.mkdir(mode=0o711)
    ensure_shared(base)
    (base / "cni").mkdir()
    with redis_server(base / "redis") as redis, nats_server(base / "nats") as nats:
        settings = {
            "node": "testnode",
            "run_dir": str(base / "run"),
            "data_dir": str(base / "data"),
            "redis_url": redis.url,
            "nats_url": nats.url.replace("://", "://node:secret@"),  # a broker without users lets any in
        }
        own = {
            "cni_conf_dir": str(base / "cni"),
            "cni_bin_dirs": json.dumps([str(programs)]),
            "cni_conf_template": str(base / "cni.template"),
            "event_buffer": "20",
            "boot_id_path": str(base / "boot_id"),
        }
        (base / "boot_id").write_text("first\n")
        found = Daemons(base, programs, redis, settings, own | runtimed)
        try:
            for name in ("snapshotd", "shimd", "runtimed"):
                found.start(name)
            for (
                name
            ) in found.processes:  # a call's patience is for one that comes back, not for a first start
                eventually((base / "run" / f"{name}.sock").exists, within_s=60, what=f"{name} to answer")
            yield found
        finally:
            for process in reversed(found.processes.values()):
                process.send_signal(signal.SIGTERM)
                process.wait(20)
        told = (base / "runtimed.log").read_text().splitlines()
        assert not [line for line in told if "reconcile.failed" in line]
    unmount_below(base)
    shutil.rmtree(base)
    shutil.rmtree(programs)


def busybox_layer(path: Path) -> str:
    with tarfile.open(path, "w") as tar:
        for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "vol"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add("/bin/busybox", "bin/busybox")
        for name in ("sh", "sleep", "echo", "cat", "id", "true", "hostname", "ps", "kill", "ls", "readlink"):
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
        for name, text in (("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n"), ("vol/seed", b"grown\n")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


class Maker(RuntimedClient):
    """With the calls that make, list and use pods, which among the services crid alone passes on."""

    async def run_sandbox(self, config: cri.PodSandboxConfig, handler: str = "") -> str:
        """Set up a sandbox; the same again returns the same id."""
        request = cri.RunPodSandboxRequest(config=config, runtime_handler=handler)
        return (await self.stub.RunPodSandbox(request, timeout=SANDBOX_TIMEOUT_S)).pod_sandbox_id

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

    async def exec_sync(
        self, container_id: str, cmd: Sequence[str], timeout_s: int = 0
    ) -> cri.ExecSyncResponse:
        """Run a command; 0 s is no timeout."""
        request = cri.ExecSyncRequest(container_id=container_id, cmd=cmd, timeout=timeout_s)
        deadline_s = timeout_s + DEADLINE_S if timeout_s else None
        return await self.stub.ExecSync(request, timeout=deadline_s)

    async def list_sandboxes(self, wanted: cri.PodSandboxFilter | None = None) -> list[cri.PodSandbox]:
        request = cri.ListPodSandboxRequest(filter=wanted)
        return list((await self.stub.ListPodSandbox(request, timeout=DEADLINE_S)).items)

    async def list_containers(self, wanted: cri.ContainerFilter | None = None) -> list[cri.Container]:
        request = cri.ListContainersRequest(filter=wanted)
        return list((await self.stub.ListContainers(request, timeout=DEADLINE_S)).containers)

    async def list_container_stats(
        self, wanted: cri.ContainerStatsFilter | None = None
    ) -> list[cri.ContainerStats]:
        request = cri.ListContainerStatsRequest(filter=wanted)
        return list((await self.stub.ListContainerStats(request, timeout=DEADLINE_S)).stats)

    async def events(self) -> AsyncIterator[cri.ContainerEventResponse]:
        """What happens from now on, for as long as the caller listens."""
        async for event in self.stub.GetContainerEvents(cri.GetEventsRequest()):
            yield event


class Pods:
    """A kubelet's view: pods with names of their own."""

    def __init__(self, daemons: Daemons, client: Maker, diff_id: str) -> None:
        self.daemons = daemons
        self.client = client
        self.diff_id = diff_id

    def sandbox_config(
        self,
        *,
        network: "cri.NamespaceMode.ValueType" = cri.NODE,
        pid: "cri.NamespaceMode.ValueType" = cri.CONTAINER,
        ipc: "cri.NamespaceMode.ValueType" = cri.POD,
    ) -> cri.PodSandboxConfig:
        name = uuid.uuid4().hex[:8]
        config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="ns"),
            log_directory=str(self.daemons.base / "logs" / name),
        )
        wanted = cri.NamespaceOption(network=network, pid=pid, ipc=ipc)
        config.linux.security_context.namespace_options.MergeFrom(wanted)
        return config

    def image(self, **config: object) -> pb.ResolvedImage:
        body = json.dumps({"config": {"Env": ["PATH=/bin"], **config}}).encode()
        return pb.ResolvedImage(id=self.diff_id, config=body, diff_ids=[self.diff_id], ref=self.diff_id)

    def container_config(self, *command: str, name: str = "c") -> cri.ContainerConfig:
        return cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name),
            image=cri.ImageSpec(image="busybox"),
            command=command,
            log_path=f"{name}.log",
        )

    async def running(self, *command: str) -> tuple[str, str, cri.PodSandboxConfig]:
        config = self.sandbox_config()
        sandbox_id = await self.client.run_sandbox(config)
        container = self.container_config(*command)
        container_id = await self.client.create_container(sandbox_id, container, config, self.image())
        await self.client.start_container(container_id)
        return sandbox_id, container_id, config

    async def limited(self, handler: str, limits: cri.LinuxContainerResources, parent: str = "") -> str:
        """A running container of this handler; the test is skipped where there is no such program."""
        if not shutil.which(handler):
            pytest.skip(f"needs {handler}")
        config = self.sandbox_config()
        config.linux.cgroup_parent = parent
        sandbox_id = await self.client.run_sandbox(config, handler)
        wanted = self.container_config("sleep", "1000")
        wanted.linux.resources.CopyFrom(limits)
        container_id = await self.client.create_container(sandbox_id, wanted, config, self.image())
        await self.client.start_container(container_id)
        return container_id

    async def status(self, container_id: str) -> cri.ContainerStatus:
        return (await self.client.container_status(container_id)).status

    async def reached(
        self, container_id: str, state: "cri.ContainerState.ValueType", within_s: float = 30.0
    ) -> cri.ContainerStatus:
        """The container's status once it is in this state; runtimed may begin anew meanwhile."""

        async def in_it() -> cri.ContainerStatus | None:
            status = await self.status(container_id)
            return status if status.state == state else None

        what = f"container {container_id} to be {cri.ContainerState.Name(state)}"
        return await until(in_it, what, within_s=within_s, but=UnavailableError)

    async def exited(self, container_id: str) -> cri.ContainerStatus:
        return await self.reached(container_id, cri.CONTAINER_EXITED)

    async def sandbox_not_ready(self, sandbox_id: str) -> None:
        async def it_is() -> bool:
            return (await self.client.sandbox_status(sandbox_id)).status.state == cri.SANDBOX_NOTREADY

        await until(it_is, f"sandbox {sandbox_id} to be NOTREADY")

    async def facts(self, container_id: str) -> dict[str, Any]:
        """What the verbose status of a container tells besides."""
        answer = await self.client.container_status(container_id, verbose=True)
        found: dict[str, Any] = json.loads(answer.info["info"])
        return found

    async def fact_is(self, container_id: str, state: str) -> None:
        """Wait until the record has this state, of which CRI's states know fewer."""

        async def it_is() -> bool:
            return bool((await self.facts(container_id))["state"] == state)

        await until(it_is, f"container {container_id} to be {state}", but=UnavailableError)

    async def reconciled(self) -> None:
        """Wait for the end of a second round of the reconciler, which looks at sandboxes' directories last."""
        stray = self.daemons.base / "data" / "runtimed" / "sandboxes" / "stray"
        stray.mkdir()
        await until(lambda: not stray.exists(), "the end of a round")


@asynccontextmanager
async def kubelet(daemons: Daemons) -> AsyncIterator[Pods]:
    client = Maker(daemons.socket, DEADLINE_S)
    snapshots = SnapshotdClient(str(daemons.base / "run" / "snapshotd.sock"), 30)
    layer = daemons.base / "layer.tar"
    diff_id = busybox_layer(layer)
    await snapshots.apply_layer(
        diff_id=diff_id,
        blob_path=str(layer),
        digest=diff_id,
        media_type="application/vnd.oci.image.layer.v1.tar",
        size_bytes=layer.stat().st_size,
    )
    yield Pods(daemons, client, diff_id)
    for item in await client.list_sandboxes():
        await client.remove_sandbox(item.id)
    assert not await client.list_containers()
    for name in ("bundles", "sandboxes"):
        assert not list((daemons.base / "run" / "runtimed" / name).glob("*")), name
    for name in ("containers", "sandboxes"):
        assert not list((daemons.base / "data" / "runtimed" / name).glob("*")), name
    await client.close()
    await snapshots.close()
