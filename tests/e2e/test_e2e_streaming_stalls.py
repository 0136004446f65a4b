"""Streams on which one side stops reading: who goes is noticed, and who reads is not held up."""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import pytest

from crid.streaming import spdy
from crid.streaming.leaving import MAX_OF_CONTAINER
from devtools.cri import Cri
from devtools.ports import free_port
from tests.e2e.test_e2e_pods import pod, runs_no_more, succeeds
from tests.e2e.test_e2e_streaming import (
    V4,
    V5,
    attach_url,
    cause,
    connect,
    exec_url,
    forward_url,
    forwarding,
    in_thread,
    rss_mib,
)
from tests.support.eventually import eventually
from tests.support.node import TestNode
from tests.support.pace import patience
from tests.support.streaming import Spdy, WebSocket

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]
GONE_S = 10.0
FAST_BYTES = 16 << 20
CLOSED_S = 5.0
LATE_S = 12.0
LATE_BYTES = 1 << 20
"""More than a client's kernel takes for it at first, and less than the server's does."""


def fill_stdin(url: str, kind: str) -> None:
    """Write until the exec holds the client up, read what it said, and go: the end waits behind the input."""
    client = WebSocket(url, V5) if kind == "websocket" else Spdy(url, V4)
    with client:
        write: Callable[[bytes], None]
        if isinstance(client, Spdy):
            for name in ("error", "stdin", "stdout"):
                client.open(name)
            write = partial(client.write, client.ids["stdin"])
        else:
            write = lambda block: client.write(b"\x00" + block)  # noqa: E731
        while not any(b"up" in (piece if isinstance(piece, bytes) else piece[1]) for piece in client.read()):
            pass
        sock = client.link.sock if isinstance(client, Spdy) else client.sock
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while True:
                write(bytes(32 << 10))
        with pytest.raises(TimeoutError):  # unread bytes would make the end a reset
            while True:
                assert client.receive()


@pytest.mark.parametrize("kind", ["spdy", "websocket"])
async def test_a_client_that_goes_behind_unread_input_ends_its_exec(
    cri: Cri, busybox: str, kind: str
) -> None:
    _, container_id = await pod(cri, f"stall-{kind}", busybox, ["sleep", "1000"])
    url = await exec_url(cri, container_id, ["sh", "-c", "echo up; exec sleep 4321"], stdin=True)
    await in_thread(fill_stdin, url, kind)
    await runs_no_more(cri, container_id, b"4321", GONE_S)


def read_until(client: Spdy, came: Counter[int], stream: int, size: int) -> None:
    while came[stream] < size:
        for number, piece in client.read():
            came[number] += len(piece)


def read_one_of_two(client: Spdy, port: int) -> Counter[int]:
    """Take much from one connection and nothing from another: its window stays as it was, and then opens a little."""
    (slow, _), (fast, _) = connect(client, port, 1), connect(client, port, 2)
    came: Counter[int] = Counter()
    read_until(client, came, slow, spdy.INITIAL_WINDOW_BYTES)
    read_until(client, came, fast, 1)
    granted = 0
    while granted < FAST_BYTES:
        client.send(spdy.window_update(fast, came[fast] - granted))
        granted = came[fast]
        read_until(client, came, fast, granted + 1)
    assert came[slow] == spdy.INITIAL_WINDOW_BYTES
    client.send(spdy.window_update(slow, 1000))
    read_until(client, came, slow, spdy.INITIAL_WINDOW_BYTES + 1000)
    return came


async def listening(cri: Cri, container_id: str, port: int) -> None:
    """Wait until a container's nc is there."""
    listens = ["grep", "-q", f":{port:04X} ", "/proc/net/tcp6"]
    await succeeds(cri, container_id, *listens)


@pytest.mark.parametrize("kind", ["spdy", "tunnel"])
async def test_a_port_whose_client_does_not_read_holds_up_no_other(
    cri: Cri, node: TestNode, busybox: str, kind: str
) -> None:
    port = free_port()
    flood = ["nc", "-ll", "-p", str(port), "-e", "cat", "/dev/zero"]
    sandbox_id, container_id = await pod(cri, f"windows-{kind}", busybox, flood)
    await listening(cri, container_id, port)
    url = await forward_url(cri, sandbox_id)
    before = rss_mib(node.pid("crid"))

    def talk() -> Counter[int]:
        with forwarding(url, kind) as client:
            client.send(spdy.initial_window(spdy.INITIAL_WINDOW_BYTES))
            return read_one_of_two(client, port)

    came = await in_thread(talk)
    assert max(came.values()) >= FAST_BYTES
    assert rss_mib(node.pid("crid")) - before < 24


def read_late(ping: Callable[[], None], collect: Callable[[], dict[int, bytes]]) -> dict[int, bytes]:
    """Read nothing for a while, but show that there is a client: to a socket that is closed, a ping is its end."""
    until = time.monotonic() + LATE_S
    while time.monotonic() < until:
        time.sleep(0.5)
        ping()
    return collect()


def read_spdy_late(url: str) -> dict[int, bytes]:
    with Spdy(url, V4) as client:
        streams = client.open("error"), client.open("stdout")
        found = read_late(lambda: client.send(spdy.ping(1)), lambda: client.collect(*streams))
        return {3: found[streams[0]], 1: found[streams[1]]}


def read_websocket_late(url: str, protocol: str) -> dict[int, bytes]:
    with WebSocket(url, protocol) as client:
        return read_late(client.ping, client.collect)


@pytest.mark.parametrize("kind", ["spdy", "websocket"])
async def test_a_client_that_reads_late_has_all_output_and_the_exit_code(
    cri: Cri, busybox: str, kind: str
) -> None:
    _, container_id = await pod(cri, f"late-{kind}", busybox, ["sleep", "1000"])
    command = ["sh", "-c", f"head -c {LATE_BYTES} /dev/zero; exit 3"]
    url = await exec_url(cri, container_id, command)
    read = (lambda: read_spdy_late(url)) if kind == "spdy" else (lambda: read_websocket_late(url, V5))
    found = await in_thread(read)
    assert len(found[1]) == LATE_BYTES
    assert cause(found[3]) == ("NonZeroExitCode", "3")


async def test_a_client_that_reads_late_has_all_that_a_port_sent(cri: Cri, busybox: str) -> None:
    port = free_port()
    flood = ["nc", "-ll", "-p", str(port), "-e", "head", "-c", str(LATE_BYTES), "/dev/zero"]
    sandbox_id, container_id = await pod(cri, "late-port", busybox, flood)
    await listening(cri, container_id, port)
    url = await forward_url(cri, sandbox_id, port)
    found = await in_thread(read_websocket_late, url, V4)
    assert len(found[0]) == 2 + LATE_BYTES


async def test_a_websocket_is_closed_soon_after_its_port(cri: Cri, busybox: str) -> None:
    """The client cannot know that nothing more comes, since the protocol has no half-close."""
    port = free_port()
    serve = ["nc", "-ll", "-p", str(port), "-e", "echo", "bye"]
    sandbox_id, container_id = await pod(cri, "port-end", busybox, serve)
    await listening(cri, container_id, port)
    url = await forward_url(cri, sandbox_id, port)

    def talk() -> tuple[dict[int, bytes], int, float]:
        with WebSocket(url, V4) as client:
            began = time.monotonic()
            return client.collect(), client.close_code, time.monotonic() - began

    found, code, took_s = await in_thread(talk)
    assert (found[0][2:], code) == (b"bye\n", 1000)
    assert took_s < patience(CLOSED_S)


def leave_input(url: str) -> None:
    """Write until nothing more is taken, and go."""
    with Spdy(url, V4) as client:
        for name in ("error", "stdin", "stdout"):
            client.open(name)
        client.link.sock.settimeout(1)
        with pytest.raises(TimeoutError):
            while True:
                client.write(client.ids["stdin"], bytes(32 << 10))


async def test_attached_clients_that_left_their_input_are_kept_in_bounds(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    _, container_id = await pod(cri, "left", busybox, ["sleep", "1000"], stdin=True)
    urls = [await attach_url(cri, container_id, stdin=True) for _ in range(4 * MAX_OF_CONTAINER)]
    descriptors = Path(f"/proc/{node.pid('crid')}/fd")
    before = len(list(descriptors.iterdir()))
    async with anyio.create_task_group() as group:
        for url in urls:
            group.start_soon(in_thread, leave_input, url)
    left = before + 2 * MAX_OF_CONTAINER  # some of crid's own may come and go
    await in_thread(
        lambda: eventually(lambda: len(list(descriptors.iterdir())) <= left, what="the others to be closed")
    )
    assert (await cri.exec(container_id, ["true"])).exit_code == 0
