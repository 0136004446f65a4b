"""deploy/compose.yml on a real engine: pods outlive every container of the node."""

import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import grpc
import pytest
from testcontainers.compose import DockerCompose

from common.sys.mounts import unmount_below
from devtools import engine
from devtools.cri import Cri
from devtools.registry import push_busybox, registry
from tests.support.engine import engine_for_containers
from tests.support.pace import patience

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(900)]
DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICES = ("redis", "nats", "imaged", "snapshotd", "shimd", "runtimed", "crid", "opsd")
COUNT = "trap 'exit 7' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done"
COMMAND_S = patience(600)
READY_S = patience(60)


class Client(Cri):
    """As a kubelet is one: a call waits for crid to be there."""

    async def call(self, method: Any, request: Any, timeout_s: float = READY_S) -> Any:
        return await method(request, timeout=timeout_s, wait_for_ready=True)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not engine.installed():
        pytest.skip("needs dockerd, and root")
    with engine_for_containers(tmp_path_factory.mktemp("docker"), wait=True) as found:
        yield found


@pytest.fixture(scope="module")
def place(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Directories of a node, and what tells compose of them."""
    name = secrets.token_hex(3)
    run, data = Path(f"/run/slipway-test-{name}"), Path(f"/var/lib/slipway-test-{name}")
    directories = {"RUN_DIR": run, "DATA_DIR": data}
    for part in ("kubelet_dir", "pod_logs", "cni_dir", "cni_bin_dir", "certs_dir"):
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
        yield SimpleNamespace(run=run, data=data, logs=data / "pod_logs")
    unmount_below(run)
    subprocess.run(["rm", "-rf", str(run), str(data)], check=True, timeout=COMMAND_S)


@pytest.fixture(scope="module")
def node(place: SimpleNamespace) -> Iterator[DockerCompose]:
    with DockerCompose(DEPLOY, "compose.yml", build=True, wait=True) as running:
        yield running


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as shop:
        yield push_busybox(shop)


@pytest.fixture
async def cri(node: DockerCompose, place: SimpleNamespace):
    options = [("grpc.default_authority", "localhost")]
    async with grpc.aio.insecure_channel(f"unix:{place.run}/crid.sock", options=options) as channel:
        client = Client(channel, place.logs)
        yield client
        await client.remove_all()


def compose(node: DockerCompose, *arguments: str) -> None:
    command = [*node.compose_command_property, *arguments]
    done = subprocess.run(command, cwd=DEPLOY, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    assert done.returncode == 0, done.stderr


async def test_a_pod_outlives_the_containers_of_every_service(
    cri: Client, node: DockerCompose, place: SimpleNamespace, image: str
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
    lines = (place.logs / "counting" / "c.log").read_text().splitlines()
    assert [int(line.split()[3]) for line in lines] == list(range(len(lines)))
    await cri.remove_sandbox(sandbox)
    assert list((place.run / "shimd/shims").iterdir()) == []


def test_each_container_has_the_capabilities_it_is_given_and_no_more(node: DockerCompose) -> None:
    client = docker.from_env()
    found = {}
    for container in client.containers.list():
        name = container.labels["com.docker.compose.service"]
        config = container.attrs["HostConfig"]
        assert config["CapDrop"] == ["ALL"]
        assert not config["Privileged"]
        assert config["ReadonlyRootfs"]
        found[name] = (container.attrs["Config"]["User"].partition(":")[0], len(config["CapAdd"] or []))
    client.close()
    assert set(found) == set(SERVICES)
    unprivileged = {name: user for name, (user, count) in found.items() if count == 0}
    assert unprivileged == {"redis": "65530", "nats": "65531", "imaged": "65532", "crid": "", "opsd": ""}


async def test_pods_on_a_network_reach_each_other(cri: Client, place: SimpleNamespace, image: str) -> None:
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
