"""What a service counts is shown over HTTP, and a port that is taken costs nothing."""

import socket
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from common.errors import UnavailableError
from common.observe import metrics, scrape
from tests.support.eventually import until
from tests.support.prometheus import get, parse

pytestmark = pytest.mark.anyio
COUNTED = metrics.counter("test_things_total", "Things of this test.", ["kind"])
ASKED = metrics.gauge("test_asked", "What is asked for at each scrape.")


async def _get(path: Path, target: str = "/metrics") -> tuple[int, str]:
    await until(path.exists, "the socket")
    return await anyio.to_thread.run_sync(get, path, target)


async def test_counts_are_shown_and_other_paths_are_not(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    COUNTED.labels("a").inc(3)

    async def ask() -> None:
        ASKED.set(7)

    async def fail() -> None:
        raise UnavailableError("the thing that is asked is away")

    metrics.measure(ask)
    metrics.measure(fail)
    async with anyio.create_task_group() as group:
        group.start_soon(scrape.serve, str(path), "")
        status, body = await _get(path)
        other, _ = await _get(path, "/")
        group.cancel_scope.cancel()
    assert (status, other) == (200, 404)
    samples = parse(body)
    assert samples["slipway_test_things_total", '{kind="a"}'] == 3
    assert samples["slipway_test_asked", ""] == 7
    assert "# HELP slipway_test_things_total Things of this test." in body
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_taken_port_leaves_the_socket_answering(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with anyio.create_task_group() as group:
            group.start_soon(scrape.serve, str(path), f"127.0.0.1:{taken.getsockname()[1]}")
            assert (await _get(path))[0] == 200
            group.cancel_scope.cancel()


async def test_a_client_that_speaks_no_http_costs_the_others_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    async with anyio.create_task_group() as group:
        group.start_soon(scrape.serve, str(path), "")
        assert (await _get(path))[0] == 200
        with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as wrong:
            silent.connect(str(path))
            wrong.connect(str(path))
            wrong.sendall(b"\x16\x03\x01 no http\r\n\r\n" + b"x" * 100_000)
            assert (await _get(path))[0] == 200
        group.cancel_scope.cancel()


async def test_a_gauge_that_cannot_be_read_costs_no_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, broken = tmp_path / "m.sock", metrics.gauge("test_broken", "Cannot be read.")
    broken.set_function(lambda: 1 / 0)
    async with anyio.create_task_group() as group:
        group.start_soon(scrape.serve, str(path), "")
        await _get(path, "/")
        async with await anyio.connect_unix(path) as client:
            await client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with pytest.raises(anyio.EndOfStream):
                await client.receive()
        broken.set_function(lambda: 5)
        status, body = await _get(path)
        group.cancel_scope.cancel()
    assert status == 200
    assert parse(body)["slipway_test_broken", ""] == 5
    assert "metrics.failed" in caplog.text


async def test_one_client_too_many_is_left_at_once_and_what_it_sends_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    async with anyio.create_task_group() as group:
        group.start_soon(scrape.serve, str(path), "")
        await _get(path)
        idle = [await anyio.connect_unix(path) for _ in range(scrape.MAX_CLIENTS)]
        with anyio.fail_after(scrape.CLIENT_S / 2):
            async with await anyio.connect_unix(path) as flood:
                with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                    while True:
                        await flood.send(b"x" * 65536)
        for client in idle:
            await client.send_eof()
            with pytest.raises(anyio.EndOfStream):
                await client.receive()
            await client.aclose()
        assert (await _get(path))[0] == 200
        group.cancel_scope.cancel()
