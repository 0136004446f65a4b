"""What costs a client little to send and crid much to read: others are answered meanwhile."""

import struct
import time
import zlib
from collections.abc import Callable

import anyio
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from crid.streaming import spdy
from crid.streaming.portforward import MAX_ALONE
from crid.streaming.spdydict import DICTIONARY
from devtools.cri import Cri
from tests.e2e.test_e2e_pods import pod
from tests.e2e.test_e2e_streaming import V4, V5, exec_url, forward_url, forwarding, in_thread
from tests.support.pace import patience
from tests.support.streaming import RefusedError, Socket, Spdy, WebSocket

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]
FLOOD_BYTES = 512 << 10
HELD_S = 1.0
"""What a call may wait for; the floods held all calls for seconds."""


def headers(pairs: int) -> bytes:
    """Frames of so many empty headers, which compression makes small; of a stream that is not there."""
    deflate = zlib.compressobj(9, zdict=DICTIONARY)
    flood = bytearray()
    while len(flood) < FLOOD_BYTES:
        block = deflate.compress(struct.pack(">I", pairs) + bytes(8 * pairs))
        body = struct.pack(">I", 999) + block + deflate.flush(zlib.Z_SYNC_FLUSH)
        flood += struct.pack(">II", 1 << 31 | 3 << 16 | 8, len(body)) + body
    return bytes(flood)


def flood_headers(url: str, pairs: int) -> None:
    with Spdy(url, V4) as client:
        try:
            client.send(headers(pairs) + spdy.ping(1))
            while data := client.receive():
                if spdy.ping(1) in data:
                    break
        except ConnectionError:
            return


def flood_settings(url: str) -> None:
    """Windows of a thousand streams, which change with each frame."""
    with forwarding(url, "spdy") as client:
        for number in range(1000):
            client.open("data", port="80", requestid=str(number))
        changes = spdy.initial_window(1000) + spdy.initial_window(2000)
        client.send(changes * (FLOOD_BYTES // 4 // len(changes)) + spdy.ping(1))
        while spdy.ping(1) not in client.receive():
            pass


def flood_messages(url: str, message: bytes) -> None:
    with WebSocket(url, V5) as client:
        client.send(message * (FLOOD_BYTES // len(message)))
        client.ping()
        while b"\x8a\x00" not in client.receive():
            pass


def flood_chunks(url: str) -> None:
    """The body of a request that has not even a token."""
    with pytest.raises((RefusedError, ConnectionError, IndexError)):
        Socket(
            url.replace("/exec/", "/nothing/"),
            [("Transfer-Encoding", "chunked"), ("X", "\r\n\r\n" + "1\r\nx\r\n" * (FLOOD_BYTES // 6) + "0")],
        )


async def longest_call(cri: Cri, flood: Callable[..., None], *args: object) -> float:
    """How long the slowest of the calls took that were made while a client sends its flood."""
    worst = 0.0
    async with anyio.create_task_group() as group:

        async def run() -> None:
            await in_thread(flood, *args)
            group.cancel_scope.cancel()

        group.start_soon(run)
        while True:
            began = time.monotonic()
            with anyio.CancelScope(shield=True):
                await cri.call(cri.runtime.Version, cri_pb.VersionRequest())
            worst = max(worst, time.monotonic() - began)
            await anyio.sleep(0.01)
    return worst


@pytest.mark.parametrize("pairs", [8191, 32])
async def test_headers_hold_up_no_call(cri: Cri, busybox: str, pairs: int) -> None:
    _, container_id = await pod(cri, f"headers-{pairs}", busybox, ["sleep", "1000"])
    url = await exec_url(cri, container_id, ["sleep", "1000"])
    assert await longest_call(cri, flood_headers, url, pairs) < patience(HELD_S)


async def test_settings_of_many_streams_hold_up_no_call(cri: Cri, busybox: str) -> None:
    sandbox_id, _ = await pod(cri, "settings", busybox, ["sleep", "1000"])
    url = await forward_url(cri, sandbox_id)
    assert await longest_call(cri, flood_settings, url) < patience(HELD_S)


MESSAGES = {
    "empty": b"\x82\x80\0\0\0\0",
    "pong": b"\x8a\x80\0\0\0\0",
    "sizes": b"\x82\xfe\xff\xff\0\0\0\0\x04" + b'{"Width":9,"Height":9}\n' * 2849 + b" " * 7,
    "closes": b"\x82\xfe\xff\xff\0\0\0\0\xff" + bytes(65534),
}


@pytest.mark.parametrize("kind", MESSAGES)
async def test_small_messages_hold_up_no_call(cri: Cri, busybox: str, kind: str) -> None:
    _, container_id = await pod(cri, f"messages-{kind}", busybox, ["sleep", "1000"])
    url = await exec_url(cri, container_id, ["sleep", "1000"], stdin=True, tty=True)
    assert await longest_call(cri, flood_messages, url, MESSAGES[kind]) < patience(HELD_S)


async def test_a_request_in_small_chunks_holds_up_no_call(cri: Cri, busybox: str) -> None:
    _, container_id = await pod(cri, "chunks", busybox, ["sleep", "1000"])
    url = await exec_url(cri, container_id, ["true"])
    assert await longest_call(cri, flood_chunks, url) < patience(HELD_S)


REFUSED = b"\x80\x03\x00\x03"  # how a frame begins that ends a stream


def streams_refused(url: str, number: int) -> int:
    """Open halves of connections, whose other halves never come."""
    came = b""
    with forwarding(url, "spdy") as client:
        for request in range(number):
            client.open("data", port="80", requestid=str(request))
        client.send(spdy.ping(1))
        while spdy.ping(1) not in came:
            came += client.receive()
    return came.count(REFUSED)


async def test_halves_of_connections_are_bounded(cri: Cri, busybox: str) -> None:
    sandbox_id, _ = await pod(cri, "halves", busybox, ["sleep", "1000"])
    url = await forward_url(cri, sandbox_id)
    assert await in_thread(streams_refused, url, MAX_ALONE + 30) == 30
