"""The registry adapter against a registry that misbehaves; real sockets, no mocks."""

import base64
import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
import urllib3

from common.api.images.v1 import images_pb2 as pb
from common.errors import (
    DataLossError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    SlipwayError,
    UnavailableError,
    UnknownError,
)
from imaged.adapters import transport
from imaged.adapters.content_local import LocalContent
from imaged.adapters.proxies import Pools
from imaged.adapters.registry import HttpRegistry
from imaged.adapters.registry_auth import parse_challenges
from imaged.adapters.transport import Limits
from imaged.manifest import Descriptor
from imaged.ports import Credentials
from imaged.reference import Reference
from imaged.servicer import credentials
from services.imaged.tests.conftest import BadRegistry, Tools
from tests.support.eventually import until
from tests.support.pace import patience

pytestmark = pytest.mark.anyio
NOBODY = Credentials()


class Layer:
    """A single-layer image and the fetch of its layer."""

    def __init__(self, tools: Tools, registry: HttpRegistry, content: LocalContent, host: str) -> None:
        self.image = tools.image_of([tools.tar_of({"f": bytes(range(256)) * 20000})], compression="none")
        found = self.image.layers[0]
        self.wanted = Descriptor(found["digest"], found["size"], found["mediaType"])
        self.body = self.image.blobs[found["digest"]]
        self.reference = Reference.parse(f"{host}/some/app:v1")
        self._registry, self._content = registry, content

    async def fetch(self, credentials: Credentials = NOBODY) -> bytes:
        async with (
            self._registry.repository(self.reference, credentials) as repository,
            self._content.ingest(self.wanted) as ingest,
        ):
            await repository.fetch(self.wanted, ingest.partial)
            await ingest.sync()
            await ingest.commit()
        return await self._content.read(self.wanted.digest)


@pytest.fixture
def layer(tools: Tools, registry: HttpRegistry, content: LocalContent, bad_registry: BadRegistry) -> Layer:
    made = Layer(tools, registry, content, bad_registry.host)
    bad_registry.serve(made.image)
    return made


async def failure(layer: Layer) -> SlipwayError:
    with pytest.raises(SlipwayError) as caught:
        await layer.fetch()
    assert str(layer.reference) in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


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
    layer: Layer, bad_registry: BadRegistry, tools: Tools, status: int, kind: type[SlipwayError], tries: int
) -> None:
    bad_registry.answer = lambda h: tools.reply(h, status, b"secret page", {"Retry-After": "9999"})
    error = await failure(layer)
    assert type(error) is kind
    assert error.message.startswith("RegistryUnavailable: ") == (kind is UnknownError)
    assert bad_registry.host in error.message
    assert len(bad_registry.requests) == tries


async def test_passing_trouble_is_retried(layer: Layer, bad_registry: BadRegistry, tools: Tools) -> None:
    good = bad_registry.answer
    answers = iter([503, 429])

    def answer(h: BaseHTTPRequestHandler) -> None:
        status = next(answers, 0)
        tools.reply(h, status) if status else good(h)

    bad_registry.answer = answer
    assert await layer.fetch() == layer.body


async def test_cut_connection_is_resumed_at_the_byte(
    layer: Layer, bad_registry: BadRegistry, tools: Tools
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


async def test_host_without_ranges_gets_three_tries(layer: Layer, bad_registry: BadRegistry) -> None:
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


async def test_silent_host_is_given_up(layer: Layer, bad_registry: BadRegistry) -> None:
    def blob(h: BaseHTTPRequestHandler) -> None:
        h.send_response(200)
        h.send_header("Content-Length", str(len(layer.body)))
        h.end_headers()
        bad_registry.release.wait(30)

    bad_registry.serve(layer.image, blob)
    error = await failure(layer)
    assert "stalled" in error.message


async def test_cancelled_fetch_ends_a_silent_read_at_once(layer: Layer, bad_registry: BadRegistry) -> None:
    asked = anyio.Event()
    token = anyio.lowlevel.current_token()

    def blob(h: BaseHTTPRequestHandler) -> None:
        h.send_response(200)
        h.send_header("Content-Length", str(len(layer.body)))
        h.end_headers()
        h.wfile.write(b"x" * 1000)
        anyio.from_thread.run_sync(asked.set, token=token)
        bad_registry.release.wait(30)

    layer._registry._limits = type(layer._registry._limits)(stall_timeout_s=30)
    bad_registry.serve(layer.image, blob)
    with anyio.fail_after(patience(5)):
        async with anyio.create_task_group() as group:
            group.start_soon(layer.fetch)
            await asked.wait()
            group.cancel_scope.cancel()


async def test_wrong_bytes_are_data_loss(layer: Layer, bad_registry: BadRegistry, tools: Tools) -> None:
    bad_registry.serve(layer.image, lambda h: tools.reply(h, 200, bytes(len(layer.body))))
    assert type(await failure(layer)) is DataLossError


async def test_wrong_size_is_data_loss(layer: Layer, bad_registry: BadRegistry, tools: Tools) -> None:
    bad_registry.serve(layer.image, lambda h: tools.reply(h, 200, layer.body + b"!"))
    error = await failure(layer)
    assert type(error) is DataLossError
    assert str(len(layer.body)) in error.message


async def test_bad_bytes_of_an_earlier_try_are_fetched_again(layer: Layer, content: LocalContent) -> None:
    async with content.ingest(layer.wanted) as ingest:
        ingest.partial.write(b"bad", 0)
    assert await layer.fetch() == layer.body


async def test_credentials_do_not_follow_a_redirect(
    layer: Layer, bad_registry: BadRegistry, tools: Tools
) -> None:
    other = tools.bad_registry()
    other.answer = lambda h: tools.reply(h, 200, layer.body)
    wanted = "Basic " + base64.b64encode(b"u:p").decode()

    def answer(h: BaseHTTPRequestHandler) -> None:
        if h.headers.get("Authorization") != wanted:
            tools.reply(h, 401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
        else:
            tools.reply(h, 307, b"", {"Location": f"http://{other.host}/storage?sig=1"})

    bad_registry.answer = answer
    try:
        assert await layer.fetch(Credentials("u", "p")) == layer.body
        assert [r[2].get("Authorization") for r in other.requests] == [None]
    finally:
        other.close()


async def test_endless_redirect_ends(layer: Layer, bad_registry: BadRegistry, tools: Tools) -> None:
    bad_registry.answer = lambda h: tools.reply(h, 302, b"", {"Location": h.path})
    assert "redirects" in (await failure(layer)).message


@pytest.mark.parametrize(
    "credentials", [NOBODY, Credentials("u", "p"), Credentials(identity_token="refresh")]
)
async def test_token_is_asked_for_once_and_used(
    layer: Layer, bad_registry: BadRegistry, tools: Tools, credentials: Credentials
) -> None:
    good = bad_registry.answer
    tokens = []

    def answer(h: BaseHTTPRequestHandler) -> None:
        if h.path.startswith("/token"):
            body = h.rfile.read(int(h.headers.get("Content-Length") or 0)).decode()
            tokens.append((h.command, h.path, h.headers.get("Authorization"), body))
            tools.reply(h, 200, json.dumps({"token": "abc", "expires_in": 300}).encode())
        elif h.headers.get("Authorization") == "Bearer abc":
            good(h)
        else:
            realm = f'Bearer realm="http://{bad_registry.host}/token",service="reg",scope="repository:some/app:pull"'
            tools.reply(h, 401, b"", {"WWW-Authenticate": realm})

    bad_registry.answer = answer
    assert await layer.fetch(credentials) == layer.body
    async with layer._registry.repository(layer.reference, credentials) as repository:
        assert str(await repository.resolve()) == layer.image.digest
    assert len(tokens) == 1
    # who was logged in before is not asked for it again
    assert [h.get("Authorization") for _, path, h in bad_registry.requests if "/manifests/" in path] == [
        "Bearer abc"
    ]
    method, path, authorization, body = tokens[0]
    if credentials.identity_token:
        assert method == "POST"
        assert "refresh_token=refresh" in body
        assert "refresh" not in path
    else:
        assert "service=reg" in path
        assert "scope=repository%3Asome%2Fapp%3Apull" in path
        assert bool(authorization) == bool(credentials)


@pytest.mark.parametrize(
    "answer",
    [b"", b"5", b"[" * 60_000, b"{}", b'{"token": "a b\\n"}', b'{"token": "abc", "expires_in": 1' + b"0" * 400 + b"}"],
)  # fmt: skip
async def test_what_is_no_token_is_a_login_that_failed(
    layer: Layer, bad_registry: BadRegistry, tools: Tools, answer: bytes
) -> None:
    realm = f'Bearer realm="http://{bad_registry.host}/token",service="reg"'

    def answers(h: BaseHTTPRequestHandler) -> None:
        if h.path.startswith("/token"):
            tools.reply(h, 200, answer)
        else:
            tools.reply(h, 401, b"", {"WWW-Authenticate": realm})

    bad_registry.answer = answers
    with pytest.raises(PermissionDeniedError, match="sent no token"):
        async with layer._registry.repository(layer.reference, NOBODY) as repository:
            await repository.resolve()


async def test_a_token_that_is_taken_no_more_is_replaced(
    layer: Layer, bad_registry: BadRegistry, tools: Tools
) -> None:
    good, tokens = bad_registry.answer, iter(["one", "two"])
    taken = {"Bearer one"}

    def answer(h: BaseHTTPRequestHandler) -> None:
        if h.path.startswith("/token"):
            tools.reply(h, 200, json.dumps({"token": next(tokens), "expires_in": 300}).encode())
        elif h.headers.get("Authorization") in taken:
            good(h)
        else:
            realm = f'Bearer realm="http://{bad_registry.host}/token",service="reg"'
            tools.reply(h, 401, b"", {"WWW-Authenticate": realm})

    bad_registry.answer = answer
    for _ in range(2):
        async with layer._registry.repository(layer.reference, NOBODY) as repository:
            assert str(await repository.resolve()) == layer.image.digest
        taken = {"Bearer two"}
    assert next(tokens, None) is None


async def test_basic_is_sent_at_once_to_who_took_it_before(
    layer: Layer, bad_registry: BadRegistry, tools: Tools
) -> None:
    good, me = bad_registry.answer, Credentials("u", "p")
    wanted = "Basic " + base64.b64encode(b"u:p").decode()

    def answer(h: BaseHTTPRequestHandler) -> None:
        if h.headers.get("Authorization") == wanted:
            good(h)
        else:
            tools.reply(h, 401, b"", {"WWW-Authenticate": 'Basic realm="x"'})

    bad_registry.answer = answer
    for _ in range(2):
        async with layer._registry.repository(layer.reference, me) as repository:
            await repository.resolve()
    async with layer._registry.repository(layer.reference, Credentials("u", "other")) as repository:
        with pytest.raises(PermissionDeniedError):
            await repository.resolve()
    sent = [r[2].get("Authorization") for r in bad_registry.requests]
    assert sent[:3] == [None, wanted, wanted]
    assert sent[3] is None


async def test_refused_credentials_are_not_told(
    layer: Layer, bad_registry: BadRegistry, tools: Tools
) -> None:
    bad_registry.answer = lambda h: tools.reply(h, 401, b"", {"WWW-Authenticate": "Basic realm=x"})
    with pytest.raises(PermissionDeniedError, match="authentication required or denied") as caught:
        await layer.fetch(Credentials("user", "hunter2"))
    assert "hunter2" not in caught.value.message
    assert "hunter2" not in repr(Credentials("user", "hunter2"))


@pytest.mark.parametrize(
    "location", ["http://[x/", "http://h:99999/", "file:///etc/passwd", "unix:///run/docker.sock"]
)
async def test_a_redirect_to_what_cannot_be_asked_is_refused(
    layer: Layer, bad_registry: BadRegistry, tools: Tools, location: str
) -> None:
    bad_registry.answer = lambda h: tools.reply(h, 307, b"", {"Location": location})
    assert f"leads to {location!r}" in (await failure(layer)).message


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("dated", [False, True])
async def test_a_time_to_wait_is_waited_up_to_a_bound(
    content: LocalContent, bad_registry: BadRegistry, tools: Tools, tmp_path: Path, status: int, dated: bool
) -> None:
    limits = Limits(connect_timeout_s=2, stall_timeout_s=5, retry_wait_s=0.01, max_retry_after_s=0.25)
    layer = Layer(tools, HttpRegistry(str(tmp_path / "certs.d"), 6, limits), content, bad_registry.host)
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
    layer = Layer(tools, HttpRegistry(str(tmp_path / "certs.d"), 6, limits), content, bad_registry.host)
    bad_registry.answer = lambda h: tools.reply(h, 503, b"", {"Retry-After": text})
    assert "answered 503" in (await failure(layer)).message


async def test_a_token_service_that_is_no_url_is_refused(
    layer: Layer, bad_registry: BadRegistry, tools: Tools
) -> None:
    bad_registry.answer = lambda h: tools.reply(h, 401, b"", {"WWW-Authenticate": 'Bearer realm="http://[x"'})
    assert isinstance(found := await failure(layer), PermissionDeniedError)
    assert "is no URL" in found.message


@pytest.mark.parametrize("piece", ["a", 'a="', "a=,", ", ", "Bearer ,"])
def test_challenges_are_read_in_no_time(piece: str) -> None:
    start = time.process_time()
    parse_challenges(["Bearer " + piece * (65_000 // len(piece))] * 20)
    assert time.process_time() - start < patience(2)


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "a\0", "☃"])
def test_a_token_that_fits_no_header_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgumentError, match="registry_token"):
        credentials(pb.Auth(registry_token=token))


async def test_registry_token_is_sent_as_it_is(layer: Layer, bad_registry: BadRegistry, tools: Tools) -> None:
    good = bad_registry.answer
    bad_registry.answer = lambda h: (
        good(h) if h.headers.get("Authorization") == "Bearer given" else tools.reply(h, 403)
    )
    assert await layer.fetch(Credentials(registry_token="given")) == layer.body


async def test_credentials_for_another_server_stay_here(layer: Layer, bad_registry: BadRegistry) -> None:
    await layer.fetch(Credentials(registry_token="given", server="https://elsewhere.example/v1/"))
    assert all("Authorization" not in r[2] for r in bad_registry.requests)


async def test_manifest_must_have_the_digest_that_is_claimed(
    layer: Layer, bad_registry: BadRegistry, tools: Tools
) -> None:
    async with layer._registry.repository(layer.reference, NOBODY) as repository:
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


async def test_mirror_is_asked_first_and_the_registry_when_it_fails(
    layer: Layer, bad_registry: BadRegistry, tools: Tools, tmp_path: Path
) -> None:
    mirror = tools.bad_registry()
    directory = tmp_path / "certs.d" / bad_registry.host
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(
        f'server = "http://{bad_registry.host}"\n[host."http://{mirror.host}"]\n[host."http://{mirror.host}".header]\n'
        'x-api = "k"\n'
    )
    try:
        assert await layer.fetch(Credentials("u", "p")) == layer.body
        assert mirror.requests[0][1].endswith(f"?ns={bad_registry.host}")
        assert mirror.requests[0][2]["x-api"] == "k"
        assert "Authorization" not in mirror.requests[0][2]
        assert len(bad_registry.requests) == 1
    finally:
        mirror.close()


@pytest.mark.parametrize(
    ("capabilities", "asked"),
    [
        (["pull"], {"blobs"}),
        (["resolve"], {"manifests"}),
        (["push"], set()),
        (["pull", "resolve"], {"manifests", "blobs"}),
    ],
)
async def test_a_mirror_is_asked_for_what_it_may_answer(
    layer: Layer,
    bad_registry: BadRegistry,
    tools: Tools,
    tmp_path: Path,
    capabilities: list[str],
    asked: set[str],
) -> None:
    mirror = tools.bad_registry()
    mirror.serve(layer.image)
    write_mirror(tmp_path, bad_registry, mirror, capabilities)

    def kinds(registry: BadRegistry) -> set[str]:
        return {path.split("/")[-2] for _, path, _ in registry.requests}

    try:
        async with layer._registry.repository(layer.reference, NOBODY) as repository:
            assert str(await repository.resolve()) == layer.image.digest
            assert (await repository.document("v1")).body == layer.image.manifest
        assert await layer.fetch() == layer.body
        assert kinds(mirror) == asked
        assert kinds(bad_registry) == {"manifests", "blobs"} - asked
    finally:
        mirror.close()


def write_mirror(base: Path, registry: BadRegistry, mirror: BadRegistry, capabilities: list[str]) -> None:
    """Give a registry a mirror of these capabilities, by hosts.toml."""
    directory = base / "certs.d" / registry.host
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(
        f'server = "http://{registry.host}"\n[host."http://{mirror.host}"]\n'
        f"capabilities = {json.dumps(capabilities)}\n"
    )


async def test_an_image_by_digest_is_resolved_at_a_mirror_that_may_only_give_it(
    layer: Layer, bad_registry: BadRegistry, tools: Tools, tmp_path: Path
) -> None:
    mirror = tools.bad_registry()
    mirror.serve(layer.image)
    write_mirror(tmp_path, bad_registry, mirror, ["pull"])
    reference = Reference.parse(f"{bad_registry.host}/some/app@{layer.image.digest}")
    bad_registry.close()
    try:
        async with layer._registry.repository(reference, NOBODY) as repository:
            assert str(await repository.resolve()) == layer.image.digest
    finally:
        mirror.close()


@pytest.mark.parametrize("status", [405, 501])
async def test_who_refuses_head_is_asked_for_the_manifest(
    layer: Layer, bad_registry: BadRegistry, tools: Tools, status: int
) -> None:
    good = bad_registry.answer
    bad_registry.answer = lambda h: tools.reply(h, status) if h.command == "HEAD" else good(h)
    async with layer._registry.repository(layer.reference, NOBODY) as repository:
        assert str(await repository.resolve()) == layer.image.digest
    assert [method for method, _, _ in bad_registry.requests] == ["HEAD", "GET"]


async def test_a_mirror_that_cannot_be_reached_is_tried_once_and_then_goes_last_for_a_while(
    layer: Layer,
    bad_registry: BadRegistry,
    tools: Tools,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    request = Pools.request

    def counted(pools: Pools, method: str, url: str, **options: Any) -> urllib3.BaseHTTPResponse:
        asked.append(urlsplit(url).netloc)
        return request(pools, method, url, **options)

    monkeypatch.setattr(Pools, "request", counted)
    mirror = tools.bad_registry()
    mirror.close()
    directory = tmp_path / "certs.d" / bad_registry.host
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(
        f'server = "http://{bad_registry.host}"\n[host."http://{mirror.host}"]\n'
    )
    for _ in range(2):  # the second is another pull
        async with layer._registry.repository(layer.reference, NOBODY) as repository:
            assert str(await repository.resolve()) == layer.image.digest
            await repository.document("v1")
    assert await layer.fetch() == layer.body
    assert asked == [mirror.host, *[bad_registry.host] * 5]
    # what the registry itself says is told, though the mirror is asked after it
    bad_registry.answer = lambda h: tools.reply(h, 404)
    async with layer._registry.repository(layer.reference, NOBODY) as repository:
        with pytest.raises(NotFoundError, match=bad_registry.host):
            await repository.document("v1")
    assert asked[-2:] == [bad_registry.host, mirror.host]
    monkeypatch.setattr(transport, "AWAY_S", -1.0)
    layer._registry.away = transport.Away()
    for _ in range(2):
        async with layer._registry.repository(layer.reference, NOBODY) as repository:
            with pytest.raises(NotFoundError):
                await repository.resolve()
    assert asked[-4:] == [mirror.host, bad_registry.host] * 2


@pytest.mark.parametrize("named", ["", "private.example"])
async def test_a_server_of_another_name_is_the_registry_itself(
    layer: Layer, bad_registry: BadRegistry, tools: Tools, tmp_path: Path, named: str
) -> None:
    good, registry = bad_registry.answer, layer._registry
    directory = tmp_path / "certs.d" / "private.example"
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(f'server = "http://{bad_registry.host}"\n')

    def answer(h: BaseHTTPRequestHandler) -> None:
        if h.headers.get("Authorization") != "Basic dTpw":
            tools.reply(h, 401, b"", {"WWW-Authenticate": 'Basic realm="r"'})
        elif h.command == "PUT" or h.path == "/v2/":
            tools.reply(h, 201 if h.command == "PUT" else 200)
        else:
            good(h)

    bad_registry.answer = answer
    login, reference = Credentials("u", "p", server=named), Reference.parse("private.example/some/app:v1")
    async with registry.repository(reference, login, push=True) as repository:
        assert str(await repository.resolve()) == layer.image.digest
        await repository.push_document("v1", layer.image.media_type, layer.image.manifest)
    assert bad_registry.requests[-1][1].endswith("/manifests/v1?ns=private.example")
    assert await registry.check_login("private.example", login)
    async with registry.repository(reference, Credentials("u", "p", server="other.example")) as repository:
        with pytest.raises(PermissionDeniedError):
            await repository.resolve()


async def test_what_all_registries_share_is_a_mirror_and_gets_no_login(
    layer: Layer, bad_registry: BadRegistry, tmp_path: Path
) -> None:
    (tmp_path / "certs.d/_default").mkdir(parents=True)
    (tmp_path / "certs.d/_default/hosts.toml").write_text(f'server = "http://{bad_registry.host}"\n')
    reference = Reference.parse("private.example/some/app:v1")
    async with layer._registry.repository(reference, Credentials("u", "p"), push=True) as repository:
        await repository.resolve()
        with pytest.raises(UnavailableError, match="may push"):
            await repository.push_document("v1", "", b"")
    assert all("Authorization" not in headers for _, _, headers in bad_registry.requests)


async def test_a_registry_that_does_not_answer_holds_up_no_other(
    layer: Layer, bad_registry: BadRegistry, tools: Tools
) -> None:
    silent, registry = tools.bad_registry(), layer._registry

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


async def test_registry_that_is_away_is_unavailable(layer: Layer, bad_registry: BadRegistry) -> None:
    bad_registry.close()
    error = await failure(layer)
    assert error.message.startswith("RegistryUnavailable: ")
    assert "refused" in error.message
