"""Credentials and tokens at a registry that asks for them as it likes."""

import base64
import json
import time
from http.server import BaseHTTPRequestHandler

import pytest

from common.api.images.v1 import images_pb2 as pb
from common.errors import InvalidArgumentError, PermissionDeniedError
from imaged.adapters.registry_auth import parse_challenges
from imaged.ports import Credentials
from imaged.servicer import credentials
from services.imaged.tests.conftest import BadRegistry, Tools
from services.imaged.tests.onelayer import NOBODY, OneLayer, failure
from tests.support.pace import patience

pytestmark = pytest.mark.anyio


async def test_credentials_do_not_follow_a_redirect(
    layer: OneLayer, bad_registry: BadRegistry, tools: Tools
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


@pytest.mark.parametrize(
    "credentials", [NOBODY, Credentials("u", "p"), Credentials(identity_token="refresh")]
)
async def test_token_is_asked_for_once_and_used(
    layer: OneLayer, bad_registry: BadRegistry, tools: Tools, credentials: Credentials
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
    async with layer.registry.repository(layer.reference, credentials) as repository:
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
    layer: OneLayer, bad_registry: BadRegistry, tools: Tools, answer: bytes
) -> None:
    realm = f'Bearer realm="http://{bad_registry.host}/token",service="reg"'

    def answers(h: BaseHTTPRequestHandler) -> None:
        if h.path.startswith("/token"):
            tools.reply(h, 200, answer)
        else:
            tools.reply(h, 401, b"", {"WWW-Authenticate": realm})

    bad_registry.answer = answers
    with pytest.raises(PermissionDeniedError, match="sent no token"):
        async with layer.registry.repository(layer.reference, NOBODY) as repository:
            await repository.resolve()


async def test_a_token_that_is_taken_no_more_is_replaced(
    layer: OneLayer, bad_registry: BadRegistry, tools: Tools
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
        async with layer.registry.repository(layer.reference, NOBODY) as repository:
            assert str(await repository.resolve()) == layer.image.digest
        taken = {"Bearer two"}
    assert next(tokens, None) is None


async def test_basic_is_sent_at_once_to_who_took_it_before(
    layer: OneLayer, bad_registry: BadRegistry, tools: Tools
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
        async with layer.registry.repository(layer.reference, me) as repository:
            await repository.resolve()
    async with layer.registry.repository(layer.reference, Credentials("u", "other")) as repository:
        with pytest.raises(PermissionDeniedError):
            await repository.resolve()
    sent = [r[2].get("Authorization") for r in bad_registry.requests]
    assert sent[:3] == [None, wanted, wanted]
    assert sent[3] is None


async def test_refused_credentials_are_not_told(
    layer: OneLayer, bad_registry: BadRegistry, tools: Tools
) -> None:
    bad_registry.answer = lambda h: tools.reply(h, 401, b"", {"WWW-Authenticate": "Basic realm=x"})
    with pytest.raises(PermissionDeniedError, match="authentication required or denied") as caught:
        await layer.fetch(Credentials("user", "hunter2"))
    assert "hunter2" not in caught.value.message
    assert "hunter2" not in repr(Credentials("user", "hunter2"))


async def test_a_token_service_that_is_no_url_is_refused(
    layer: OneLayer, bad_registry: BadRegistry, tools: Tools
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


async def test_registry_token_is_sent_as_it_is(
    layer: OneLayer, bad_registry: BadRegistry, tools: Tools
) -> None:
    good = bad_registry.answer
    bad_registry.answer = lambda h: (
        good(h) if h.headers.get("Authorization") == "Bearer given" else tools.reply(h, 403)
    )
    assert await layer.fetch(Credentials(registry_token="given")) == layer.body


async def test_credentials_for_another_server_stay_here(layer: OneLayer, bad_registry: BadRegistry) -> None:
    await layer.fetch(Credentials(registry_token="given", server="https://elsewhere.example/v1/"))
    assert all("Authorization" not in r[2] for r in bad_registry.requests)
