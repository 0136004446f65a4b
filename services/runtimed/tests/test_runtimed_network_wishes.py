"""What a sandbox may wish of its network: ports of the node, rates of its traffic."""

import socket
from typing import Any

import pytest

from common import cniconf
from common.api.cri.v1 import api_pb2 as cri
from common.errors import FailedPreconditionError, InvalidArgumentError
from runtimed.network import bandwidth, cni, hostports
from runtimed.network.hostports import HostPort, HostPorts


def mapped(*ports: tuple[str, int, int], host_network: bool = False) -> cri.PodSandboxConfig:
    config = cri.PodSandboxConfig()
    for address, number, protocol in ports:
        config.port_mappings.add(
            host_ip=address, host_port=number, container_port=80, protocol=cri.Protocol.ValueType(protocol)
        )
    if host_network:
        config.linux.security_context.namespace_options.network = cri.NODE
    return config


@pytest.mark.parametrize(
    ("mine", "theirs", "meet"),
    [
        (("", 80, "TCP"), ("", 80, "TCP"), True),
        (("", 80, "TCP"), ("", 81, "TCP"), False),
        (("", 80, "TCP"), ("", 80, "UDP"), False),
        (("", 80, "TCP"), ("::1", 80, "TCP"), True),
        (("0.0.0.0", 80, "TCP"), ("10.0.0.1", 80, "TCP"), True),
        (("0.0.0.0", 80, "TCP"), ("::1", 80, "TCP"), False),
        (("::", 80, "TCP"), ("::1", 80, "TCP"), True),
        (("10.0.0.1", 80, "TCP"), ("10.0.0.2", 80, "TCP"), False),
        (("::1", 80, "TCP"), ("0:0::1", 80, "TCP"), True),
    ],
)
def test_ports_meet_where_one_packet_would_fit_both(
    mine: tuple[str, int, str], theirs: tuple[str, int, str], meet: bool
) -> None:
    assert HostPort(*mine).meets(HostPort(*theirs)) is meet
    assert HostPort(*theirs).meets(HostPort(*mine)) is meet


def test_a_port_is_claimed_once() -> None:
    ports = HostPorts()
    held = [("ns/old (1)", mapped(("", 80, 0)).SerializeToString())]
    with (
        pytest.raises(FailedPreconditionError, match=r"host port 80/TCP is taken by sandbox ns/old \(1\)"),
        ports.claim("2", mapped(("", 80, 0)), held),
    ):
        pass
    with ports.claim("2", mapped(("", 81, 0), ("", 81, 1)), held):
        with (
            pytest.raises(
                FailedPreconditionError, match=r"host port 127\.0\.0\.1:81/UDP is taken by sandbox 2"
            ),
            ports.claim("3", mapped(("127.0.0.1", 81, 1)), held),
        ):
            pass
        with ports.claim("4", mapped(("", 81, 2)), held):
            pass
    with ports.claim("5", mapped(("", 81, 0)), held):
        pass


def test_no_port_and_the_nodes_own_network_claim_nothing() -> None:
    assert hostports.wanted(mapped(("", 0, 0), ("", 0, 0))) == []
    assert hostports.wanted(mapped(("", 80, 0), ("", 80, 0), host_network=True)) == []
    with pytest.raises(InvalidArgumentError, match=r"host port \[::1\]:80/SCTP is mapped twice"):
        hostports.wanted(mapped(("", 80, 2), ("::1", 80, 2)))


@pytest.mark.parametrize(("kind", "protocol"), [(socket.SOCK_STREAM, cri.TCP), (socket.SOCK_DGRAM, cri.UDP)])
def test_a_port_that_a_process_of_the_node_has_is_not_free(kind: int, protocol: int) -> None:
    with socket.socket(socket.AF_INET, kind) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
        server.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            server.listen()
        number = server.getsockname()[1]
        for address in ("", "0.0.0.0", "127.0.0.1"):
            with pytest.raises(
                FailedPreconditionError, match=f"host port .*{number}/.*: address already in use"
            ):
                hostports.check_free(mapped((address, number, protocol)))
        hostports.check_free(mapped(("127.0.0.2", number, protocol), ("", number, 1 - protocol)))
    hostports.check_free(mapped(("", number, protocol)))


def test_a_port_that_was_left_just_now_is_free() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        number = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", number)) as client:
            server.accept()[0].close()  # this end waits out its packets
            assert client.recv(1) == b""
    hostports.check_free(mapped(("", number, cri.TCP)))


@pytest.mark.parametrize("address", ["192.0.2.99", "2001:db8::99"])
def test_an_address_that_the_node_lacks_is_refused(address: str) -> None:
    with pytest.raises(FailedPreconditionError, match=r"99.*: the node has no such address"):
        hostports.check_free(mapped((address, 80, cri.TCP)))


def test_a_mapping_wants_an_address_of_its_family() -> None:
    hostports.check_families(mapped(("", 80, 0), ("10.0.0.1", 81, 0)), ["10.9.0.2"])
    hostports.check_families(mapped(("::", 80, 0), ("10.0.0.1", 81, 0)), ["10.9.0.2", "fd00::2"])
    with pytest.raises(InvalidArgumentError, match="host_ip: '::1': the pod has no address of this family"):
        hostports.check_families(mapped(("::1", 80, 0)), ["10.9.0.2"])


@pytest.mark.parametrize(
    ("text", "rate"),
    [("1M", 10**6), ("1.5k", 1500), ("2Ki", 2048), ("1e4", 10000), ("1000", 1000), ("1P", 10**15),
     ("1000000m", 1000), ("1000.5", 1001), (".5M", 500_000)],
)  # fmt: skip
def test_rates_are_quantities_of_kubernetes(text: str, rate: int) -> None:
    found = bandwidth.limits({"kubernetes.io/ingress-bandwidth": text, "other": "x"})
    assert found == {"ingressRate": rate, "ingressBurst": min(rate, 2**31 - 1)}


@pytest.mark.parametrize("text", ["", "fast", "-1M", "999", "2P", "1MB", "1 M", "1e99", "1e-2", "\uff11M"])
def test_what_is_no_rate_is_refused_with_its_annotation(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"kubernetes\.io/egress-bandwidth = "):
        bandwidth.limits({"kubernetes.io/egress-bandwidth": text})


def test_wishes_that_no_plugin_serves_are_known() -> None:
    wish = cni.Attachment(
        sandbox_id="s",
        netns_path="/n",
        pod_name="p",
        pod_namespace="n",
        pod_uid="u",
        port_mappings=[{"hostPort": 80}],
        bandwidth={"ingressRate": 1000},
    )
    plugins: list[dict[str, Any]] = [
        {"type": "bridge"},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    assert cni._unserved(cniconf.NetworkConf("n", "1.0.0", plugins), wish) == ["bandwidth"]
