"""Networks of pods over CRI: ports of the node, two families, bandwidth, DNS."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Unpack

import anyio
import anyio.to_thread
import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools import bridge
from devtools.cri import Cri, PodFields
from devtools.ports import free_port
from tests.e2e.test_e2e_pods import succeeds
from tests.support import refusals
from tests.support.node import TestNode

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root]

CODE = grpc.StatusCode
TRY_S = 2.0


def port(
    number: int, protocol: cri_pb.Protocol.ValueType = cri_pb.TCP, host_ip: str = ""
) -> cri_pb.PortMapping:
    return cri_pb.PortMapping(host_port=number, container_port=80, protocol=protocol, host_ip=host_ip)


async def sandbox(
    cri: Cri, name: str, *ports: cri_pb.PortMapping, **fields: Unpack[PodFields]
) -> tuple[cri_pb.PodSandboxConfig, str]:
    config = cri.sandbox_config(name, **fields)
    config.port_mappings.extend(ports)
    return config, await cri.run_sandbox(config)


async def serve(cri: Cri, image: str, config: cri_pb.PodSandboxConfig, sandbox_id: str) -> None:
    """Answer each caller with the pod's name, on port 80."""
    await cri.pull(image)
    made = cri.container_config("c", image, ["nc", "-ll", "-p", "80", "-e", "hostname"])
    container_id = await cri.create(sandbox_id, made, config)
    await cri.start(container_id)
    await succeeds(cri, container_id, "grep", "-q", ":0050 ", "/proc/net/tcp6")


UDP_ANSWER = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("", 80))
    print(flush=True)
    server.sendto(b"pod", server.recvfrom(9)[1])
"""


@contextmanager
def udp_server(netns: Path) -> Iterator[None]:
    """Answer one datagram on port 80 of a pod."""
    command = ["nsenter", f"--net={netns}", sys.executable, "-c", UDP_ANSWER]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield
        process.kill()


async def ask(host: str, number: int, kind: int = socket.SOCK_STREAM) -> bytes:
    def talk() -> bytes:
        with socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(TRY_S)
            client.connect((host, number))
            if kind == socket.SOCK_DGRAM:
                client.send(b"?")
            return client.recv(16)

    return await anyio.to_thread.run_sync(talk)


async def status(cri: Cri, sandbox_id: str) -> cri_pb.PodSandboxStatus:
    request = cri_pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
    return (await cri.call(cri.runtime.PodSandboxStatus, request)).status


async def test_a_port_of_the_node_leads_to_the_pod_and_goes_with_it(cri: Cri, busybox: str) -> None:
    number = free_port()
    config, sandbox_id = await sandbox(cri, "port", port(number))
    await serve(cri, busybox, config, sandbox_id)
    assert await ask("127.0.0.1", number) == b"port\n"
    await cri.remove_sandbox(sandbox_id)
    with pytest.raises(OSError):  # noqa: PT011 - refused or timed out, by the state of the bridge
        await ask("127.0.0.1", number)


async def test_udp_and_sctp_are_mapped_and_port_0_is_not(cri: Cri, node: TestNode) -> None:
    number = free_port()
    ports = [port(number, cri_pb.UDP), port(number, cri_pb.SCTP), port(0)]
    _, sandbox_id = await sandbox(cri, "udp", *ports)
    with udp_server(node.run_dir / "runtimed/sandboxes" / sandbox_id / "ns/net"):
        assert await ask("127.0.0.1", number, socket.SOCK_DGRAM) == b"pod"
    rules = subprocess.run(["iptables", "-t", "nat", "-S"], capture_output=True, text=True, check=True).stdout
    kept = {line.split("-p ")[1].split()[0] for line in rules.splitlines() if f"--dport {number}" in line}
    assert kept == {"udp", "sctp"}


async def test_an_address_of_the_node_limits_the_port_to_it(cri: Cri, busybox: str) -> None:
    number = free_port()
    config, sandbox_id = await sandbox(cri, "host-ip", port(number, host_ip="127.0.0.1"))
    await serve(cri, busybox, config, sandbox_id)
    assert await ask("127.0.0.1", number) == b"host-ip\n"
    gateway = (await status(cri, sandbox_id)).network.ip.rpartition(".")[0] + ".1"
    with pytest.raises(ConnectionRefusedError):
        await ask(gateway, number)


async def test_a_port_that_is_taken_is_refused_by_name_until_it_is_free(cri: Cri, node: TestNode) -> None:
    number = free_port()
    _, first = await sandbox(cri, "first", port(number))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sandbox(cri, "second", port(number, host_ip="127.0.0.1"))
    assert caught.value.code() is CODE.FAILED_PRECONDITION
    assert refusals.told(caught) == (
        f"port_mappings: host port 127.0.0.1:{number}/TCP is taken by sandbox default/first ({first})"
    )
    assert node.leftovers()["sandboxes"] == [first]
    await cri.call(cri.runtime.StopPodSandbox, cri_pb.StopPodSandboxRequest(pod_sandbox_id=first))
    _, second = await sandbox(cri, "second", port(number, host_ip="127.0.0.1"))
    assert (await status(cri, second)).state == cri_pb.SANDBOX_READY


async def test_a_port_of_a_process_of_the_node_is_refused_to_the_command_and_given_to_a_kubelet(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    """A kubelet's pod gets it as with containerd; a person is told, as by docker."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        number = server.getsockname()[1]
        words = ("run", "-d", "--name", "taker", "-p", f"{number}:80", busybox, "sleep", "1000")
        refused = await anyio.to_thread.run_sync(partial(node.slipway, *words))
        _, sandbox_id = await sandbox(cri, "kubelets", port(number))
    assert refused.returncode == 125
    assert f"host port {number}/TCP: address already in use" in refused.stderr
    assert node.leftovers()["sandboxes"] == [sandbox_id]
    lost_words = ("run", "--name", "lost", "-p", f"192.0.2.99:{free_port()}:80", busybox, "true")
    lost = await anyio.to_thread.run_sync(partial(node.slipway, *lost_words))
    assert (lost.returncode, "the node has no such address" in lost.stderr) == (125, True)


async def test_an_address_of_a_family_that_the_pod_has_not_is_refused(cri: Cri, node: TestNode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sandbox(cri, "family", port(free_port(), host_ip="::1"))
    assert caught.value.code() is CODE.INVALID_ARGUMENT
    assert "port_mappings.host_ip: '::1'" in refusals.told(caught)
    assert (node.leftovers()["sandboxes"], node.leftovers()["cni"]) == ([], [])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"port_mappings": [port(70000)]}, "port_mappings"),
        ({"port_mappings": [port(80, host_ip="nowhere")]}, "port_mappings.host_ip: 'nowhere'"),
        ({"port_mappings": [port(80), port(80)]}, "host port 80/TCP is mapped twice"),
        ({"annotations": {"kubernetes.io/egress-bandwidth": "fast"}}, "egress-bandwidth = 'fast'"),
        ({"dns_config": cri_pb.DNSConfig(searches=["a b"])}, "dns_config.searches: 'a b'"),
    ],
)
async def test_wishes_that_make_no_sense_are_refused(cri: Cri, fields: PodFields, words: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.run_sandbox(cri.sandbox_config("bad-wish", **fields))
    assert caught.value.code() is CODE.INVALID_ARGUMENT
    assert words in refusals.told(caught)


@pytest.fixture
def dual_stack(node: TestNode, tmp_path: Path) -> Iterator[None]:
    """A network that goes before the node's own: two families, and limits of bandwidth."""
    name = f"{node.bridge}d"
    ranges = [[{"subnet": "10.251.7.0/24"}], [{"subnet": "fd00:51:7::/64"}]]
    ipam = {"type": "host-local", "ranges": ranges, "dataDir": str(tmp_path / "leases")}
    plugins = [
        {"type": "bridge", "bridge": name, "ipam": ipam},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    ]
    path = node.data_dir / "cni" / "05-dual.conflist"
    path.write_text(json.dumps({"cniVersion": "0.4.0", "name": name, "plugins": plugins}))
    yield
    path.unlink()
    bridge.remove(name)


async def test_a_pod_has_an_address_of_each_family(cri: Cri, busybox: str, dual_stack: None) -> None:
    config, sandbox_id = await sandbox(cri, "dual")
    network = (await status(cri, sandbox_id)).network
    assert network.ip.startswith("10.251.7.")
    assert [item.ip for item in network.additional_ips] == ["fd00:51:7::2"]
    await serve(cri, busybox, config, sandbox_id)


async def test_annotations_limit_the_bandwidth(cri: Cri, node: TestNode, dual_stack: None) -> None:
    rates = {"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "20M"}
    _, sandbox_id = await sandbox(cri, "bandwidth", annotations=rates)
    shown = subprocess.run(["tc", "qdisc", "show"], capture_output=True, text=True, check=True).stdout
    limits = [line for line in shown.splitlines() if "qdisc tbf" in line]
    assert ["rate 10Mbit" in line or "rate 20Mbit" in line for line in limits] == [True, True], shown
    await cri.remove_sandbox(sandbox_id)
    shown = subprocess.run(["tc", "qdisc", "show"], capture_output=True, text=True, check=True).stdout
    assert "qdisc tbf" not in shown


async def test_dns_is_as_asked_and_else_the_nodes(cri: Cri, busybox: str) -> None:
    await cri.pull(busybox)
    dns = cri_pb.DNSConfig(servers=["10.0.0.10", "fd00::10"], searches=["a.svc", "svc"], options=["ndots:5"])
    own = "search a.svc svc\nnameserver 10.0.0.10\nnameserver fd00::10\noptions ndots:5\n"
    with open("/etc/resolv.conf") as file:
        nodes = file.read()
    for name, fields, content in (("dns", PodFields(dns_config=dns), own), ("dns-none", PodFields(), nodes)):
        config, sandbox_id = await sandbox(cri, name, **fields)
        made = cri.container_config("c", busybox, ["sleep", "1000"])
        container_id = await cri.create(sandbox_id, made, config)
        await cri.start(container_id)
        assert (await cri.exec(container_id, ["cat", "/etc/resolv.conf"])).stdout.decode() == content
