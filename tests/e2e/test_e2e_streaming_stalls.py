"""Streams on which one side stops reading: who goes is noticed, and who reads is not held up."""

import anyio
import pytest

from tests.e2e.test_e2e_pods import pod
from tests.e2e.test_e2e_streaming import V4, V5, exec_url, in_thread
from tests.support.pace import patience
from tests.support.streaming import Spdy, WebSocket

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]
GONE_S = 10.0


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
