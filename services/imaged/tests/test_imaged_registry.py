"""The registry adapter against a registry that misbehaves; real sockets, no mocks."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import anyio
import pytest

from common.errors import (
    DataLossError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    SlipwayError,
    UnknownError,
)
from imaged.adapters.content_local import LocalContent
from imaged.adapters.registry import HttpRegistry
from imaged.adapters.transport import Limits
from imaged.reference import Reference
from services.imaged.tests.conftest import BadRegistry, Tools
from services.imaged.tests.onelayer import NOBODY, OneLayer, failure
from tests.support.eventually import until
from tests.support.pace import patience

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("status", "kind", "tries"),
    [
        (401, PermissionDeniedError, 1),
        (403, PermissionDeniedError, 1),
        (404, NotFoundError, 1),
        (429, ResourceExhaustedError, 3),
        (500, UnknownError, 3),
        (503, UnknownError, 3),
        (418, UnknownError, 1),
    ],
)
async def test_status_becomes_an_error_of_ours(
    layer: OneLayer,
    bad_registry: BadRegistry,
    tools: Tools,
    status: int,
    kind: type[SlipwayError],
    tries: int,
) -> None:
    bad_registry.answer = lambda h: tools.reply(h, status, b"secret page", {"Retry-After": "9999"})
    error = await failure(layer)
    assert type(error) is kind
    assert error.message.startswith("RegistryUnavailable: ") == (kind is UnknownError)
    assert bad_registry.host in error.message
    assert len(bad_registry.requests) == tries


async def test_passing_trouble_is_retried(layer: OneLayer, bad_registry: BadRegistry, tools: Tools) -> None:
    good = bad_registry.answer
    answers = iter([503, 429])

    def answer(h: BaseHTTPRequestHandler) -> None:
        status = next(answers, 0)
        tools.reply(h, status) if status else good(h)

    bad_registry.answer = answer
    assert await layer.fetch() == layer.body


async def test_cut_connection_is_resumed_at_the_byte(
    layer: OneLayer, bad_registry: BadRegistry, tools: Tools
) -> None:
    def blob(h: BaseHTTPRequestHandler) -> None:
        start = int(h.headers.get("Range", "bytes=0-")[6:-1])
        rest = layer.body[start:]
        h.send_response(206 if start else 200)
        h.send_header("Content-Length", str(len(rest)))
        h.send_header("Content-Range", f"bytes {start}-{len(layer.body) - 1}/{len(layer.body)}")
        h.end_headers()
        h.wfile.write(rest[:1_500_000])
        h.close_connection = True

    bad_registry.serve(layer.image, blob)
    assert await layer.fetch() == layer.body
    ranges = [r[2].get("Range") for r in bad_registry.requests]
    assert ranges == [None, "bytes=1500000-", "bytes=3000000-", "bytes=4500000-"]


async def test_host_without_ranges_gets_three_tries(layer: OneLayer, bad_registry: BadRegistry) -> None:
    def blob(h: BaseHTTPRequestHandler) -> None:
        h.send_response(200)
        h.send_header("Content-Length", str(len(layer.body)))
        h.end_headers()
        h.wfile.write(layer.body[:1000])
        h.close_connection = True

    bad_registry.serve(layer.image, blob)
    error = await failure(layer)
    assert type(error) is UnknownError
    assert "cut the connection" in error.message
    assert len(bad_registry.requests) == 4


async def test_silent_host_is_given_up(layer: OneLayer, bad_registry: BadRegistry) -> None:
    def blob(h: BaseHTTPRequestHandler) -> None:
        h.send_response(200)
        h.send_header("Content-Length", str(len(layer.body)))
        h.end_headers()
        bad_registry.release.wait(30)

    bad_registry.serve(layer.image, blob)
    error = await failure(layer)
    assert "stalled" in error.message


async def test_cancelled_fetch_ends_a_silent_read_at_once(layer: OneLayer, bad_registry: BadRegistry) -> None:
    asked = anyio.Event()
    token = anyio.lowlevel.current_token()

    def blob(h: BaseHTTPRequestHandler) -> None:
        h.send_response(200)
        h.send_header("Content-Length", str(len(layer.body)))
        h.end_headers()
        h.wfile.write(b"x" * 1000)
        anyio.from_thread.run_sync(asked.set, token=token)
        bad_registry.release.wait(30)

    layer.registry._limits = type(layer.registry._limits)(stall_timeout_s=30)
    bad_registry.serve(layer.image, blob)
    with anyio.fail_after(patience(5)):
        async with anyio.create_task_group() as group:
            group.start_soon(layer.fetch)
            await asked.wait()
            group.cancel_scope.cancel()


async def test_wrong_bytes_are_data_loss(layer: OneLayer, bad_registry: BadRegistry, tools: Tools) -> None:
    bad_registry.serve(layer.image, lambda h: tools.reply(h, 200, bytes(len(layer.body))))
    assert type(await failure(layer)) is DataLossError


async def test_wrong_size_is_data_loss(layer: OneLayer, bad_registry: BadRegistry, tools: Tools) -> None:
    bad_registry.serve(layer.image, lambda h: tools.reply(h, 200, layer.body + b"!"))
    error = await failure(layer)
    assert type(error) is DataLossError
    assert str(len(layer.body)) in error.message


async def test_bad_bytes_of_an_earlier_try_are_fetched_again(layer: OneLayer, content: LocalContent) -> None:
    async with content.ingest(layer.wanted) as ingest:
        ingest.partial.write(b"bad", 0)
    assert await layer.fetch() == layer.body


async def test_endless_redirect_ends(layer: OneLayer, bad_registry: BadRegistry, tools: Tools) -> None:
    bad_registry.answer = lambda h: tools.reply(h, 302, b"", {"Location": h.path})
    assert "redirects" in (await failure(layer)).message


@pytest.mark.parametrize(
    "location", ["http://[x/", "http://h:99999/", "file:///etc/passwd", "unix:///run/docker.sock"]
)
async def test_a_redirect_to_what_cannot_be_asked_is_refused(
    layer: OneLayer, bad_registry: BadRegistry, tools: Tools, location: str
) -> None:
    bad_registry.answer = lambda h: tools.reply(h, 307, b"", {"Location": location})
    assert f"leads to {location!r}" in (await failure(layer)).message


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("dated", [False, True])
async def test_a_time_to_wait_is_waited_up_to_a_bound(
    content: LocalContent, bad_registry: BadRegistry, tools: Tools, tmp_path: Path, status: int, dated: bool
) -> None:
    limits = Limits(connect_timeout_s=2, stall_timeout_s=5, retry_wait_s=0.01, max_retry_after_s=0.25)
    layer = OneLayer(tools, HttpRegistry(str(tmp_path / "certs.d"), 6, limits), content, bad_registry.host)
    bad_registry.serve(layer.image)
    good, asked = bad_registry.answer, []

    def answer(h: BaseHTTPRequestHandler) -> None:
        asked.append(time.monotonic())
        if len(asked) > 1:
            good(h)
            return
        after = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True) if dated else "60"
        tools.reply(h, status, b"", {"Retry-After": after})

    bad_registry.answer = answer
    assert await layer.fetch() == layer.body
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 0.25


@pytest.mark.parametrize(
    "text", ["\xb2", "soon", "-5", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 0000 07:28:00 GMT"]
)
async def test_a_time_to_wait_that_is_none_or_past_is_not_waited(
    content: LocalContent, bad_registry: BadRegistry, tools: Tools, tmp_path: Path, text: str
) -> None:
    limits = Limits(connect_timeout_s=2, stall_timeout_s=5, retry_wait_s=0.01, max_retry_after_s=600)
    layer = OneLayer(tools, HttpRegistry(str(tmp_path / "certs.d"), 6, limits), content, bad_registry.host)
    bad_registry.answer = lambda h: tools.reply(h, 503, b"", {"Retry-After": text})
    assert "answered 503" in (await failure(layer)).message


async def test_manifest_must_have_the_digest_that_is_claimed(
    layer: OneLayer, bad_registry: BadRegistry, tools: Tools
) -> None:
    async with layer.registry.repository(layer.reference, NOBODY) as repository:
        assert (await repository.document("v1")).body == layer.image.manifest
        with pytest.raises(DataLossError, match="not sha256:"):
            await repository.document("sha256:" + "0" * 64)
        bad_registry.answer = lambda h: tools.reply(
            h, 200, b"{}", {"Docker-Content-Digest": tools.sha256(b"x")}
        )
        with pytest.raises(DataLossError):
            await repository.document("v1")
        bad_registry.answer = lambda h: tools.reply(h, 200, b" " * ((4 << 20) + 1))
        with pytest.raises(SlipwayError, match="larger than"):
            await repository.document("v1")


@pytest.mark.parametrize("status", [405, 501])
async def test_who_refuses_head_is_asked_for_the_manifest(
    layer: OneLayer, bad_registry: BadRegistry, tools: Tools, status: int
) -> None:
    good = bad_registry.answer
    bad_registry.answer = lambda h: tools.reply(h, status) if h.command == "HEAD" else good(h)
    async with layer.registry.repository(layer.reference, NOBODY) as repository:
        assert str(await repository.resolve()) == layer.image.digest
    assert [method for method, _, _ in bad_registry.requests] == ["HEAD", "GET"]


async def test_a_registry_that_does_not_answer_holds_up_no_other(
    layer: OneLayer, bad_registry: BadRegistry, tools: Tools
) -> None:
    silent, registry = tools.bad_registry(), layer.registry

    def wait(h: BaseHTTPRequestHandler) -> None:
        silent.release.wait(60)
        tools.reply(h, 404)

    silent.answer = wait
    registry.remember(silent.host, f"http://{silent.host}/v2")

    async def ask(host: str) -> str:
        async with registry.repository(Reference.parse(f"{host}/some/app:v1"), NOBODY) as repository:
            return str(await repository.resolve())

    try:
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(ask, silent.host)
            await until(lambda: len(silent.requests) == 6, "six to wait")
            start_s = time.monotonic()
            assert await ask(bad_registry.host) == layer.image.digest
            took_s = time.monotonic() - start_s
            group.cancel_scope.cancel()
        assert took_s < 1 * patience(1), "a stall takes a second"
    finally:
        silent.close()


async def test_registry_that_is_away_is_unavailable(layer: OneLayer, bad_registry: BadRegistry) -> None:
    bad_registry.close()
    error = await failure(layer)
    assert error.message.startswith("RegistryUnavailable: ")
    assert "refused" in error.message
