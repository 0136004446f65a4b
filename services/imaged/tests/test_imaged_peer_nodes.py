"""Two nodes in network namespaces, with one NATS and one registry between them: blobs go from node to node."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from common.clients.imaged import ImagedClient
from common.errors import NotFoundError
from common.sys import linux
from services.imaged.tests.conftest import Tools
from tests.support.eventually import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.root, pytest.mark.timeout(300)]
HUB, REGISTRY_PORT, NATS_PORT, PEER_PORT = "10.254.77.1", 5000, 4222, 7946
CONFIG = """version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {root}/data}}}}
http: {{addr: {host}:{port}}}
"""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=20)


def _inside(netns: str, fn: Callable[[], object]) -> None:
    """Call in a network namespace: in a thread, which ends there."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with Path(f"/run/netns/{netns}").open("rb") as place:
                linux.setns(place.fileno(), linux.CLONE_NEWNET)
            fn()
        except BaseException as exc:
            failures.append(exc)
            raise

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures


@dataclass
class Hub:
    """The namespace between the nodes, with the registry and NATS."""

    netns: str
    root: Path
    nodes: list[str]

    @property
    def registry(self) -> str:
        return f"{HUB}:{REGISTRY_PORT}"

    def blobs_asked(self) -> list[str]:
        """The digests of blobs that the registry was asked for."""
        lines = (self.root / "registry.log").read_text().splitlines()
        return [
            line.split("/blobs/")[1].split()[0]
            for line in lines
            if '"GET /v2/' in line and "/blobs/sha256:" in line
        ]


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    name = f"slwt{uuid.uuid4().hex[:6]}"
    nodes = [f"{name}a", f"{name}b"]
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="slipway-") as directory:
        made = Hub(name, Path(directory), nodes)
        try:
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "add", "hub", "type", "bridge")
            _run("ip", "-n", name, "address", "add", f"{HUB}/24", "dev", "hub")
            for link in ("hub", "lo"):
                _run("ip", "-n", name, "link", "set", link, "up")
            for number, node in enumerate(nodes, 2):
                _run("ip", "netns", "add", node)
                _run(
                    "ip",
                    "-n",
                    node,
                    "link",
                    "add",
                    "eth0",
                    "type",
                    "veth",
                    "peer",
                    "name",
                    node,
                    "netns",
                    name,
                )
                _run("ip", "-n", name, "link", "set", node, "master", "hub", "up")
                _run("ip", "-n", node, "address", "add", f"10.254.77.{number}/24", "dev", "eth0")
                for link in ("eth0", "lo"):
                    _run("ip", "-n", node, "link", "set", link, "up")
            running += [_registry(made), _nats(made)]
            yield made
        finally:
            for process in running:
                process.kill()
                process.wait()
            for each in (*nodes, name):
                subprocess.run(["ip", "netns", "delete", each], check=False, timeout=20)


def _registry(hub: Hub) -> subprocess.Popen[bytes]:
    config = hub.root / "registry.yml"
    config.write_text(CONFIG.format(root=hub.root, host=HUB, port=REGISTRY_PORT))
    with (hub.root / "registry.log").open("wb") as log:
        return subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{hub.netns}", "docker-registry", "serve", str(config)],
            stdout=log,
            stderr=log,
        )


def _nats(hub: Hub) -> subprocess.Popen[bytes]:
    program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or "nats-server"
    command = [program, "-a", HUB, "-p", str(NATS_PORT), "-js", "-sd", str(hub.root / "nats")]
    with (hub.root / "nats.log").open("wb") as log:
        return subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{hub.netns}", *command], stdout=log, stderr=log
        )


class Cluster:
    """Both nodes."""

    def __init__(self, hub: Hub, redis_url: str, tools: Tools, root: Path) -> None:
        secret = root / "secret"
        secret.write_text("of this cluster alone, and so long")
        secret.chmod(0o600)
        self.daemons, self.clients = [], []
        for number, netns in enumerate(hub.nodes, 2):
            place = root / netns
            certs = place / "certs.d" / hub.registry
            certs.mkdir(parents=True)
            (certs / "hosts.toml").write_text(f'server = "http://{hub.registry}"\n')
            made = tools.daemons(
                place,
                redis_url,
                node=netns,
                netns=netns,
                nats=f"nats://{HUB}:{NATS_PORT}",
                PEER_ADDRESS=f"10.254.77.{number}:{PEER_PORT}",
                PEER_SECRET_FILE=str(secret),
                PEER_ANSWER_S="5",
            )
            for service in ("snapshotd", "imaged"):
                made.start(service)
            self.daemons.append(made)
            self.clients.append(ImagedClient(made.socket("imaged")))

    def met(self, number: int) -> bool:
        """Whether a node is connected to NATS and gives."""
        return "peers.ready" in (self.daemons[number].root / "imaged.log").read_text()

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        for each in self.daemons:
            each.close()


@pytest.fixture
async def cluster(hub: Hub, redis_url: str, tools: Tools) -> AsyncIterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="slipway-") as directory:
        made = Cluster(hub, redis_url, tools, Path(directory))
        try:
            for number in range(2):
                eventually(partial(made.met, number), within_s=100, what="the nodes are on NATS")
            yield made
        finally:
            await made.close()


async def test_the_second_node_has_its_layers_from_the_first(
    hub: Hub, cluster: Cluster, tools: Tools
) -> None:
    big, small = tools.tar_of({"big": os.urandom(40 << 20)}), tools.tar_of({"small": b"s"})
    made = tools.image_of([big, small], compression="none")
    name = f"{hub.registry}/team/app:v1"
    _inside(hub.netns, lambda: tools.real_registry(REGISTRY_PORT, HUB).push("team/app", "v1", made))
    first, second = cluster.clients
    digest = made.layers[0]["digest"]
    assert (await first.pulled(name)).id == made.config_digest
    assert digest in hub.blobs_asked()
    before = len(hub.blobs_asked())
    assert (await second.pulled(name)).id == made.config_digest
    asked = hub.blobs_asked()[before:]
    assert asked
    assert digest not in asked
    with pytest.raises(NotFoundError):
        await second.pulled(f"{hub.registry}/team/other@{made.digest}")


async def test_a_node_that_dies_while_it_gives_costs_no_pull(
    hub: Hub, cluster: Cluster, tools: Tools
) -> None:
    made = tools.image_of([tools.tar_of({"big": os.urandom(40 << 20)})], compression="none")
    name = f"{hub.registry}/team/dying:v1"
    _inside(hub.netns, lambda: tools.real_registry(REGISTRY_PORT, HUB).push("team/dying", "v1", made))
    first, second = cluster.clients
    await first.pulled(name)
    cluster.daemons[0].end("imaged", 9)
    assert (await second.pulled(name)).id == made.config_digest
