"""A service whose accept(2) fails serves on whom it serves, and accepts the others when it can."""

import socket
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from common.accepting import accept
from common.observe import scrape
from common.rpc import handed
from tests.support.descriptors import none_left
from tests.support.eventually import until
from tests.support.listening import listened
from tests.support.pace import patience

pytestmark = pytest.mark.anyio


async def _echo(stream: SocketStream) -> None:
    async with stream:
        async for data in stream:
            await stream.send(data)


async def _told(log: pytest.LogCaptureFixture) -> None:
    await until(lambda: "accept.failed" in log.text, "the lack to be told")


async def _ask(client: socket.socket, data: bytes) -> bytes:
    """The client's socket was made before there were no descriptors left."""
    with anyio.fail_after(patience(10)):
        await anyio.wait_writable(client)
        client.send(data)
        await anyio.wait_readable(client)
        return client.recv(len(data))


async def _listener(kind: str, path: Path) -> tuple[Any, Any]:
    if kind == "unix":
        return await anyio.create_unix_listener(path), str(path)
    tcp = await anyio.create_tcp_listener(local_host="localhost")
    return tcp, tcp.extra(SocketAttribute.local_address)  # noqa: S610 - no Django


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_without_descriptors_clients_are_served_on_and_accepted_later(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listener, address = await _listener(kind, tmp_path / "s")
    family = listener.extra(SocketAttribute.family)  # noqa: S610 - no Django
    async with listener, anyio.create_task_group() as group:
        group.start_soon(accept, partial(listener.serve, _echo, group), "here")
        with socket.socket(family) as early, socket.socket(family) as late:
            early.connect(address)
            assert await _ask(early, b"1") == b"1"
            with none_left():
                late.connect(address)
                await _told(caplog)
                assert await _ask(early, b"2") == b"2"
            assert await _ask(late, b"3") == b"3"
        group.cancel_scope.cancel()


async def test_metrics_without_descriptors_end_no_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.sock"
    async with anyio.create_task_group() as group:
        group.start_soon(scrape.serve, str(path), "")
        await listened(path)
        with socket.socket(socket.AF_UNIX) as late:
            with none_left():
                late.connect(str(path))
                await _told(caplog)
            assert await _ask(late, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        group.cancel_scope.cancel()


async def test_a_handed_over_socket_without_descriptors_ends_no_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, given = str(tmp_path / "own"), str(tmp_path / "given")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(given)
    listening.listen()
    async with await anyio.create_unix_listener(own) as server, anyio.create_task_group() as group:
        group.start_soon(server.serve, _echo)
        group.start_soon(handed.relay, listening, own, anyio.Event())
        await anyio.wait_all_tasks_blocked()
        with socket.socket(socket.AF_UNIX) as late:
            with none_left():
                late.connect(given)
                await _told(caplog)
            assert await _ask(late, b"1") == b"1"
        group.cancel_scope.cancel()
