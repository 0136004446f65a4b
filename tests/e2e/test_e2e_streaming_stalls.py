"""Streams on which one side stops reading: who goes is noticed, and who reads is not held up."""

from collections import Counter

import anyio
import pytest

from crid.streaming import spdy
from tests.e2e.test_e2e_pods import pod
from tests.e2e.test_e2e_streaming import (
    V4,
    V5,
    connect,
    exec_url,
    forward_url,
    forwarding,
    free_port,
    in_thread,
    rss_mib,
)
from tests.support.pace import patience
from tests.support.streaming import Spdy, WebSocket

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]
GONE_S = 10.0
FAST_BYTES = 16 << 20


def fill_stdin(url: str, kind: str) -> None:
    """Write until the exec holds the client up, read what it said, and go: the end waits behind the input."""
    client = WebSocket(url, V5) if kind == "websocket" else Spdy(url, V4)
    with client:
        if isinstance(client, Spdy):
            for name in ("error", "stdin", "stdout"):
                client.open(name)
            stdin = client.ids["stdin"]
            write = lambda block: client.write(stdin, block)  # noqa: E731
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
async def test_a_client_that_goes_behind_unread_input_ends_its_exec(cri, busybox, kind: str) -> None:
    _, container_id = await pod(cri, f"stall-{kind}", busybox, ["sleep", "1000"])
    url = await exec_url(cri, container_id, ["sh", "-c", "echo up; exec sleep 4321"], stdin=True)
    await in_thread(fill_stdin, url, kind)
    with anyio.fail_after(patience(GONE_S)):
        while b"4321" in (await cri.exec(container_id, ["ps"])).stdout:
            await anyio.sleep(0.05)


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


@pytest.mark.parametrize("kind", ["spdy", "tunnel"])
async def test_a_port_whose_client_does_not_read_holds_up_no_other(cri, node, busybox, kind: str) -> None:
    port = free_port()
    flood = ["nc", "-ll", "-p", str(port), "-e", "cat", "/dev/zero"]
    sandbox_id, container_id = await pod(cri, f"windows-{kind}", busybox, flood)
    listens = ["grep", "-q", f":{port:04X} ", "/proc/net/tcp6"]
    with anyio.fail_after(patience(GONE_S)):
        while (await cri.exec(container_id, listens)).exit_code:
            await anyio.sleep(0.05)
    url = await forward_url(cri, sandbox_id)
    before = rss_mib(node.pid("crid"))

    def talk() -> Counter[int]:
        with forwarding(url, kind) as client:
            client.send(spdy.initial_window(spdy.INITIAL_WINDOW_BYTES))
            return read_one_of_two(client, port)

    came = await in_thread(talk)
    assert max(came.values()) >= FAST_BYTES
    assert rss_mib(node.pid("crid")) - before < 24
