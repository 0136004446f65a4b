"""What is no request, to every socket that a node listens on: it is refused or waited for, and the next one is answered.

The sockets are found, so that a new one is among them; what speaks a protocol of its own needs a row in QUESTIONS.
"""

import os
import pkgutil
import re
import select
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path

import grpc
import msgpack
import pytest

from common import api
from common.rpc.plain import MAX_MESSAGE_BYTES
from devtools.cri import Cri
from node.health import trouble
from tests.e2e.test_e2e_pods import pod
from tests.support.node import TestNode
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]
CODE = grpc.StatusCode
ANSWER_S = 10.0
HEALTH = "/grpc.health.v1.Health/Check"
Address = Path | int
"""A Unix socket, or a TCP port of loopback."""


def frame(request: dict[str, object]) -> bytes:
    body: bytes = msgpack.packb(request)
    return struct.pack(">I", len(body)) + body


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
QUESTIONS = {
    "grpc": (PREFACE + SETTINGS, rb"\0\0.\x04"),
    "http": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", rb"HTTP/1\.1 \d{3}"),
    "redis": (b"PING\r\n", rb"\+PONG"),
    "nats": (b"PING\r\n", b"INFO "),
    "shim": (frame({"v": 1, "id": 7, "op": "state"}), b"....*container_id"),
    "ranges": (b"{}\n", b'{"error":"a question that cannot be read'),
}
"""By protocol: a question, and how an answer begins."""
LONG = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "
HOSTILE = {
    "noise": os.urandom(1 << 18),
    "a frame of 4 GiB": b"\xff" * 4096,
    "a frame of HTTP/2 of 16 MiB": PREFACE + SETTINGS + b"\xff\xff\xff\0\0\0\0\0\1" + bytes(1 << 18),
    "a request of HTTP/1": LONG + b"x\r\n\r\n",
    "a header without an end": LONG + b"x" * (1 << 20),
    "a body of 8 EiB": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9223372036854775807\r\n\r\nx",
    "lines without an end": b"[" * (1 << 20),
    "half a preface": PREFACE[:10],
    "half a frame": frame({"v": 1, "id": 7, "op": "state"})[:9],
    "half a line": b"*2\r\n$4\r\nECHO",
    "silence": b"",
}


def unix_sockets(directory: Path) -> Iterator[Path]:
    for here, _, names in os.walk(directory):
        for name in names:
            path = Path(here, name)
            with suppress(FileNotFoundError):  # gone meanwhile
                if stat.S_ISSOCK(path.lstat().st_mode):
                    yield path


def tcp_ports(pids: list[int]) -> set[int]:
    """Where these processes listen."""
    links = [
        os.readlink(entry)
        for pid in pids
        for entry in Path(f"/proc/{pid}/fd").iterdir()
        if entry.is_symlink()
    ]
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in links:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def connect(address: Address) -> socket.socket:
    if isinstance(address, int):
        return socket.create_connection(("127.0.0.1", address), patience(ANSWER_S))
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(patience(ANSWER_S))
    directory = os.open(address.parent, os.O_PATH)
    try:
        client.connect(f"/proc/self/fd/{directory}/{address.name}")  # the whole may be longer than sun_path
    finally:
        os.close(directory)
    return client


def spoken(address: Address) -> str:
    """The protocol in which it answers."""
    give_up_at = time.monotonic() + patience(ANSWER_S)
    with ExitStack() as stack:
        heard: dict[socket.socket, tuple[str, bytes]] = {}
        for name, (question, _) in QUESTIONS.items():
            client = stack.enter_context(connect(address))
            with suppress(BrokenPipeError):
                client.sendall(question)
            heard[client] = (name, b"")
        while heard and (left := give_up_at - time.monotonic()) > 0:
            for client in select.select(list(heard), [], [], left)[0]:
                name, before = heard.pop(client)
                with suppress(ConnectionResetError):
                    if chunk := client.recv(4096):
                        heard[client] = (name, before + chunk)
                        if re.match(QUESTIONS[name][1], before + chunk, re.DOTALL):
                            return name
    raise AssertionError(f"{address}: answers no question")


def attack(address: Address, stack: ExitStack) -> None:
    """Send each, and stay."""
    for sent in HOSTILE.values():
        client = stack.enter_context(connect(address))
        client.settimeout(0.2)  # who has stopped reading has refused it
        with suppress(OSError):
            client.sendall(sent)


def serving(addresses: dict[Address, str]) -> None:
    for address, protocol in addresses.items():
        if protocol == "grpc":
            assert trouble("grpc", str(address)) == ""
        else:
            assert spoken(address) == protocol, address


def methods() -> Iterator[str]:
    """Paths of all calls of one request that services declare."""
    for module in pkgutil.walk_packages(api.__path__, f"{api.__name__}."):
        if module.name.endswith("_pb2"):
            for service in import_module(module.name).DESCRIPTOR.services_by_name.values():
                yield from (
                    f"/{service.full_name}/{m.name}" for m in service.methods if not m.client_streaming
                )


async def refusal(channel: grpc.aio.Channel, method: str, message: bytes) -> CODE:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(message, timeout=patience(ANSWER_S))
    return refused.value.code()


async def refusals(path: Path) -> set[str]:
    """Send what is no message to all calls, and too large a one; returns the calls that are served here."""
    served = set()
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        assert await refusal(channel, HEALTH, bytes(MAX_MESSAGE_BYTES + 1)) is CODE.RESOURCE_EXHAUSTED
        for method in methods():
            code = await refusal(channel, method, b"\xff\xff")
            assert code in (CODE.INVALID_ARGUMENT, CODE.UNIMPLEMENTED), method
            served |= {method} if code is CODE.INVALID_ARGUMENT else set()
    return served


async def test_nothing_sent_to_a_socket_ends_or_stops_what_listens_there(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    container_id = (await pod(cri, "sockets", busybox, ["sleep", "1000"]))[1]
    pids = node.state["pids"]
    shims = {path: path.read_text() for path in node.run_dir.glob("shimd/shims/*/pid")}
    logs = {path: path.stat().st_size for path in node.run_dir.rglob("*.log")}
    places: list[Address] = [*unix_sockets(node.run_dir), *tcp_ports(list(pids.values()))]
    addresses: dict[Address, str] = {address: spoken(address) for address in places}
    assert set(addresses.values()) == set(QUESTIONS)
    with ExitStack() as stack:
        for address in addresses:
            attack(address, stack)
        serving(addresses)
    serving(addresses)
    served = set()
    for address, protocol in addresses.items():
        if protocol == "grpc":
            assert isinstance(address, Path), f"gRPC on port {address}"
            served |= await refusals(address)
    assert served == set(methods())
    assert (await cri.exec(container_id, ["echo", "still here"])).stdout == b"still here\n"
    assert node.state["pids"] == pids
    assert {path: path.read_text() for path in shims} == shims
    for path in node.run_dir.rglob("*.log"):
        said = path.read_bytes()[logs.get(path, 0) :].decode(errors="replace")
        assert "Traceback" not in said, f"{path}: {said}"
