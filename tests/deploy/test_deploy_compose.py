"""deploy/compose.yml on a real engine: pods outlive every container of the node."""

import json
import os
import re
import secrets
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import docker
import grpc
import pytest
from testcontainers.compose import DockerCompose

from common.api.cri.v1 import api_pb2 as cri_pb
from common.sys import linux
from common.sys.mounts import unmount_below
from devtools import engine
from devtools.cri import Answer, Cri, Request
from devtools.registry import push_busybox, registry
from runtimed.oci.capabilities import NAMES
from tests.support import logs
from tests.support.engine import engine_for_containers
from tests.support.eventually import eventually
from tests.support.node import differences
from tests.support.pace import patience

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(900)]
DEPLOY = Path(__file__).parents[2] / "deploy"
SYS_RESOURCE = 24
SERVICES = ("redis", "nats", "imaged", "snapshotd", "shimd", "runtimed", "crid", "opsd")
COUNT = "trap 'exit 7' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done"
COMMAND_S = patience(600)
READY_S = patience(120)


class Client(Cri):
    """As a kubelet is one: a call waits for crid to be there, and is made again while a service behind it is not."""

    async def call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Request, Answer]",
        request: Request,
        timeout_s: float = READY_S,
    ) -> Answer:
        with anyio.fail_after(timeout_s):
            while True:
                try:
                    return await method(request, timeout=timeout_s, wait_for_ready=True)
                except grpc.aio.AioRpcError as exc:
                    if exc.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not engine.installed():
        pytest.skip("needs dockerd, and root")
    with engine_for_containers(tmp_path_factory.mktemp("docker"), wait=True) as found:
        assert found is not None
        yield found


@dataclass(frozen=True)
class Place:
    """Directories of a node."""

    run: Path
    data: Path
    logs: Path


@pytest.fixture(scope="module")
def place(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Directories of a node, and what tells compose of them."""
    name = secrets.token_hex(3)
    run, data = Path(f"/run/slipway-test-{name}"), Path(f"/var/lib/slipway-test-{name}")
    directories = {"RUN_DIR": run, "DATA_DIR": data}
    for part in ("pod_logs", "cni_dir", "cni_bin_dir", "certs_dir"):
        directories[part.upper()] = data / part
    with pytest.MonkeyPatch.context() as patch:
        for key, path in directories.items():
            path.mkdir()
            patch.setenv(f"SLIPWAY_{key}", str(path))
        patch.setenv("SLIPWAY_NATS_PORT", "14222")
        patch.setenv("SLIPWAY_METRICS_PORT", "0")
        patch.setenv("SLIPWAY_DASHBOARD_PORT", "0")
        patch.setenv("SLIPWAY_BASE", engine.base_image(address))
        patch.setenv("SLIPWAY_BUILD_NETWORK", "host")
        yield Place(run, data, data / "pod_logs")
    unmount_below(run)
    subprocess.run(["rm", "-rf", str(run), str(data)], check=True, timeout=COMMAND_S)


@pytest.fixture(scope="module")
def node(place: Place) -> Iterator[DockerCompose]:
    files = ["compose.yml"]
    if SYS_RESOURCE in linux.effective_capabilities():  # an engine in a container lowers no score
        files.append("scores.yml")
    made = DockerCompose(DEPLOY, files, build=True, wait=True)
    # an engine without BuildKit makes all stages for each image: in turn each finds those of the one before
    compose(made, "build", COMPOSE_PARALLEL_LIMIT="1")
    with made as running:  # up --build --wait
        yield running


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as shop:
        yield push_busybox(shop)


@pytest.fixture
async def cri(node: DockerCompose, place: Place) -> AsyncIterator[Client]:
    options = [("grpc.default_authority", "localhost")]
    async with grpc.aio.insecure_channel(f"unix:{place.run}/crid.sock", options=options) as channel:
        client = Client(channel, place.logs)
        yield client
        await client.remove_all()


def compose(node: DockerCompose, *arguments: str, **environment: str) -> None:
    command = [*node.compose_command_property, *arguments]
    env = os.environ | environment
    done = subprocess.run(
        command, cwd=DEPLOY, env=env, capture_output=True, text=True, timeout=COMMAND_S, check=False
    )
    assert done.returncode == 0, done.stderr


async def test_a_pod_outlives_the_containers_of_every_service(
    cri: Client, node: DockerCompose, place: Place, image: str
) -> None:
    await cri.pull(image)
    pod = cri.sandbox_config("counting", host_network=True)
    sandbox = await cri.run_sandbox(pod)
    container = await cri.create(sandbox, cri.container_config("c", image, ["sh", "-c", COUNT]), pod)
    await cri.start(container)
    started = (await cri.status(container)).started_at
    for service in SERVICES:
        for change in (("restart",), ("up", "-d", "--force-recreate", "--no-deps")):
            compose(node, *change, service)
            assert (await cri.exec(container, ["echo", service])).stdout.decode() == f"{service}\n"
    compose(node, "down")
    compose(node, "up", "-d", "--wait")
    assert (await cri.status(container)).started_at == started
    await cri.stop(container, timeout_s=10)
    assert (await cri.status(container)).exit_code == 7
    counted = [int(line) for line in logs.lines(place.logs / "counting" / "c.log")]
    assert counted == list(range(len(counted)))
    await cri.remove_sandbox(sandbox)
    assert list((place.run / "shimd/shims").iterdir()) == []
    assert await differences(place.run) == []


async def test_a_log_of_redis_that_a_power_cut_left_with_zeros_is_cut(
    cri: Cri, node: DockerCompose, place: Place
) -> None:
    sandbox = await cri.run_sandbox(cri.sandbox_config("cut", host_network=True))
    compose(node, "stop", "redis")
    log = max((place.data / "redis/appendonlydir").glob("*.incr.aof"))
    with log.open("ab") as file:
        file.write(bytes(4096))
    compose(node, "up", "-d", "--wait", "redis")
    assert log.with_suffix(".damaged").read_bytes().endswith(bytes(4096))
    assert f"repaired: cut 4096 bytes off {log}" in "".join(node.get_logs("redis"))
    await cri.remove_sandbox(sandbox)


async def test_after_a_reboot_the_engine_alone_brings_the_node_back(
    cri: Client, node: DockerCompose, place: Place, image: str
) -> None:
    """As a reboot is to it: all containers end, the run directory is empty, the engine starts those that it is to."""
    await cri.pull(image)
    client = docker.from_env()
    names = {"label": f"com.docker.compose.project={running('crid').labels['com.docker.compose.project']}"}
    to_start = [
        one
        for one in client.containers.list(all=True, filters=names)
        if one.attrs["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    ]
    for one in to_start:
        one.kill()  # `stop` would have the engine leave it
    unmount_below(place.run)
    for path in place.run.iterdir():
        subprocess.run(["rm", "-rf", str(path)], check=True, timeout=COMMAND_S)
    place.run.chmod(0o755)
    os.chown(place.run, 0, 0)
    # in an order that no dependency gives
    for one in sorted(to_start, key=lambda each: each.labels["com.docker.compose.service"] == "prepare"):
        one.start()
    client.close()

    def back() -> bool:
        return all(
            running(service).attrs["State"]["Health"]["Status"] == "healthy"
            for service in ("prepare", *SERVICES)
        )

    await anyio.to_thread.run_sync(lambda: eventually(back, within_s=120, what="every service"))
    sandbox = await cri.run_sandbox(cri.sandbox_config("rebooted", host_network=True))
    await cri.remove_sandbox(sandbox)
    assert await differences(place.run) == []


def running(service: str) -> Any:
    """The container of a service, which runs."""
    client = docker.from_env()
    (found,) = client.containers.list(filters={"label": f"com.docker.compose.service={service}"})
    client.close()
    return found


def promised(service: str) -> set[str]:
    """The capabilities that docs/compose.md tells of a service."""
    page = (DEPLOY.parent / "docs/compose.md").read_text()
    (row,) = re.findall(rf"^\| [^|]*\b{service}\b[^|]*\| [^|]*\| ([^|]*) \|", page, re.MULTILINE)
    return {f"CAP_{word}" for word in re.findall(r"\b[A-Z]+(?:_[A-Z]+)*\b", row)}


USERS = {"redis": 65530, "nats": 65531, "imaged": 65532}


@pytest.mark.parametrize("service", SERVICES)
def test_each_process_has_the_privileges_that_the_page_tells_and_no_more(
    node: DockerCompose, service: str
) -> None:
    attributes = running(service).attrs
    assert not attributes["HostConfig"]["Privileged"]
    assert attributes["HostConfig"]["ReadonlyRootfs"]
    pid = attributes["State"]["Pid"]
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    for kind in ("CapBnd", "CapPrm", "CapEff"):
        held = {name for bit, name in enumerate(NAMES) if int(status[kind], 16) >> bit & 1}
        assert held == promised(service) or (kind != "CapBnd" and not held and service in USERS)
    assert int(status["Uid"].split()[0]) == USERS.get(service, 0)
    confined = service not in ("snapshotd", "shimd", "runtimed")
    assert (status["NoNewPrivs"], status["Seccomp"]) == (
        "0" if service == "shimd" else "1",
        "2" if confined else "0",
    )


async def test_a_service_whose_process_dies_is_back_and_the_pod_goes_on(
    cri: Client, node: DockerCompose, image: str
) -> None:
    await cri.pull(image)
    pod = cri.sandbox_config("killed", host_network=True)
    sandbox = await cri.run_sandbox(pod)
    container = await cri.create(sandbox, cri.container_config("c", image, ["sleep", "1000"]), pod)
    await cri.start(container)
    started = (await cri.status(container)).started_at
    before = {service: running(service).attrs["State"]["Pid"] for service in SERVICES}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        states = [running(service).attrs["State"] for service in SERVICES]
        return all(
            state["Pid"] not in (0, *before.values()) and state["Health"]["Status"] == "healthy"
            for state in states
        )

    await anyio.to_thread.run_sync(lambda: eventually(back, within_s=60, what="every service"))
    assert (await cri.exec(container, ["echo", "here"])).stdout == b"here\n"
    assert (await cri.status(container)).started_at == started


async def test_a_path_that_a_pod_names_is_the_hosts(
    cri: Client, node: DockerCompose, place: Place, image: str, tmp_path: Path
) -> None:
    """Below /tmp, where the services have a file system of their own."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/said").write_text("by the host\n")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mknod(tmp_path / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    await cri.pull(image)
    pod = cri.sandbox_config("paths", host_network=True)
    pod.log_directory = str(tmp_path / "logs/paths")
    sandbox = await cri.run_sandbox(pod)
    command = (
        "cat /link/said; echo back > /made/answer; head -c 3 /dev/nothing | wc -c;"
        " mkdir /shared/inside && mount -t tmpfs none /shared/inside; echo $?; sleep 1000"
    )
    config = cri.container_config("c", image, ["sh", "-c", command])
    for inside, outside, propagation in (
        ("/link", "link", cri_pb.PROPAGATION_PRIVATE),
        ("/made", "not/there/yet", cri_pb.PROPAGATION_PRIVATE),
        ("/shared", "real", cri_pb.PROPAGATION_BIDIRECTIONAL),
    ):
        config.mounts.add(container_path=inside, host_path=str(tmp_path / outside), propagation=propagation)
    config.devices.add(container_path="/dev/nothing", host_path=str(tmp_path / "device"), permissions="rwm")
    config.linux.security_context.capabilities.add_capabilities.append("SYS_ADMIN")  # to mount
    config.linux.security_context.seccomp.profile_type = cri_pb.SecurityProfile.Unconfined
    container = await cri.create(sandbox, config, pod)
    await cri.start(container)
    log = tmp_path / "logs/paths/c.log"
    eventually(lambda: logs.lines(log) == ["by the host", "3", "0"], what="the log")
    # the engine's mounts are the machine's, where it is one of our own too
    mounts = Path(f"/proc/{(engine.RUN / 'docker.pid').read_text()}/mountinfo").read_text()
    assert f" {tmp_path}/real/inside " in mounts
    assert (await cri.exec(container, ["umount", "/shared/inside"])).exit_code == 0
    assert (tmp_path / "not/there/yet/answer").read_text() == "back\n"
    status = await cri.status(container)
    assert status.log_path == str(log)
    assert {mount.host_path for mount in status.mounts} == {
        str(tmp_path / name) for name in ("link", "not/there/yet", "real")
    }
    missing = cri.container_config("never", image, ["true"])
    missing.devices.add(container_path="/dev/x", host_path=str(tmp_path / "none"), permissions="r")
    with pytest.raises(grpc.aio.AioRpcError, match=f"{tmp_path}/none"):
        await cri.create(sandbox, missing, pod)


def test_what_the_systemd_driver_calls_is_in_the_images(node: DockerCompose) -> None:
    client = docker.from_env()
    said = client.containers.run("slipway/runtimed", ["--version"], entrypoint="busctl", remove=True)
    client.close()
    assert said.startswith(b"systemd ")


async def test_pods_on_a_network_reach_each_other(cri: Client, place: Place, image: str) -> None:
    conflist = {
        "cniVersion": "0.4.0",
        "name": "compose",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": "10.251.77.0/24"}]],
                    "dataDir": str(place.data / "leases"),
                },
            }
        ],
    }
    (place.data / "cni_dir" / "10-compose.conflist").write_text(json.dumps(conflist))
    await cri.pull(image)
    pod = cri.sandbox_config("networked")
    sandbox = await cri.run_sandbox(pod)
    container = await cri.create(sandbox, cri.container_config("c", image, ["sleep", "1000"]), pod)
    await cri.start(container)
    answer = await cri.exec(container, ["ip", "-4", "addr", "show", "eth0"])
    assert b"10.251.77." in answer.stdout


def test_the_command_line_works_from_the_host_and_events_are_followed_by_what_the_page_says(
    node: DockerCompose, place: Place, image: str
) -> None:
    programs = Path(
        sys.executable
    ).parent  # where ./dev install-deps puts them; a reader has them by export PATH

    def slipway(*words: str) -> str:
        command = [
            str(programs / "slipway"),
            "--run-dir",
            str(place.run),
            "-o",
            "table",
            *words,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    slipway("pull", image)
    slipway("run", "-d", "--name", "web", "--network", "host", image, "sh", "-c", "echo serving; sleep 1000")
    eventually(lambda: slipway("logs", "web") == "serving\n", what="its log")
    assert "running" in slipway("why", "web")
    slipway("rm", "-f", "web")
    assert slipway("run", "--rm", "--network", "host", image, "echo", "brief") == "brief\n"
    assert (place.data / "nats-port").read_text() == os.environ["SLIPWAY_NATS_PORT"]
    said = slipway("events", "--since", "10m", "--until-now")
    assert "container.removed" in said
