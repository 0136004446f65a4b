"""Where an image is asked for: mirrors, and servers of another name."""

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import urllib3

from common.errors import NotFoundError, PermissionDeniedError, UnavailableError
from imaged.adapters import transport
from imaged.adapters.proxies import Pools
from imaged.ports import Credentials
from imaged.reference import Reference
from services.imaged.tests.conftest import BadRegistry, Tools
from services.imaged.tests.onelayer import NOBODY, OneLayer

pytestmark = pytest.mark.anyio


def write_mirror(base: Path, registry: BadRegistry, mirror: BadRegistry, *lines: str) -> None:
    """Give a registry a mirror, by a hosts.toml that has these lines about it."""
    directory = base / "certs.d" / registry.host
    directory.mkdir(parents=True)
    whole = [f'server = "http://{registry.host}"', f'[host."http://{mirror.host}"]', *lines]
    (directory / "hosts.toml").write_text("\n".join(whole))


async def test_mirror_is_asked_first_and_the_registry_when_it_fails(
    layer: OneLayer, bad_registry: BadRegistry, tools: Tools, tmp_path: Path
) -> None:
    mirror = tools.bad_registry()
    write_mirror(tmp_path, bad_registry, mirror, 'header.x-api = "k"')
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
    layer: OneLayer,
    bad_registry: BadRegistry,
    tools: Tools,
    tmp_path: Path,
    capabilities: list[str],
    asked: set[str],
) -> None:
    mirror = tools.bad_registry()
    mirror.serve(layer.image)
    write_mirror(tmp_path, bad_registry, mirror, f"capabilities = {json.dumps(capabilities)}")

    def kinds(registry: BadRegistry) -> set[str]:
        return {path.split("/")[-2] for _, path, _ in registry.requests}

    try:
        async with layer.registry.repository(layer.reference, NOBODY) as repository:
            assert str(await repository.resolve()) == layer.image.digest
            assert (await repository.document("v1")).body == layer.image.manifest
        assert await layer.fetch() == layer.body
        assert kinds(mirror) == asked
        assert kinds(bad_registry) == {"manifests", "blobs"} - asked
    finally:
        mirror.close()


async def test_an_image_by_digest_is_resolved_at_a_mirror_that_may_only_give_it(
    layer: OneLayer, bad_registry: BadRegistry, tools: Tools, tmp_path: Path
) -> None:
    mirror = tools.bad_registry()
    mirror.serve(layer.image)
    write_mirror(tmp_path, bad_registry, mirror, 'capabilities = ["pull"]')
    reference = Reference.parse(f"{bad_registry.host}/some/app@{layer.image.digest}")
    bad_registry.close()
    try:
        async with layer.registry.repository(reference, NOBODY) as repository:
            assert str(await repository.resolve()) == layer.image.digest
    finally:
        mirror.close()


async def test_a_mirror_that_cannot_be_reached_is_tried_once_and_then_goes_last_for_a_while(
    layer: OneLayer,
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
    write_mirror(tmp_path, bad_registry, mirror)
    for _ in range(2):  # the second is another pull
        async with layer.registry.repository(layer.reference, NOBODY) as repository:
            assert str(await repository.resolve()) == layer.image.digest
            await repository.document("v1")
    assert await layer.fetch() == layer.body
    assert asked == [mirror.host, *[bad_registry.host] * 5]
    # what the registry itself says is told, though the mirror is asked after it
    bad_registry.answer = lambda h: tools.reply(h, 404)
    async with layer.registry.repository(layer.reference, NOBODY) as repository:
        with pytest.raises(NotFoundError, match=bad_registry.host):
            await repository.document("v1")
    assert asked[-2:] == [bad_registry.host, mirror.host]
    monkeypatch.setattr(transport, "AWAY_S", -1.0)
    layer.registry.away = transport.Away()
    for _ in range(2):
        async with layer.registry.repository(layer.reference, NOBODY) as repository:
            with pytest.raises(NotFoundError):
                await repository.resolve()
    assert asked[-4:] == [mirror.host, bad_registry.host] * 2


@pytest.mark.parametrize("named", ["", "private.example"])
async def test_a_server_of_another_name_is_the_registry_itself(
    layer: OneLayer, bad_registry: BadRegistry, tools: Tools, tmp_path: Path, named: str
) -> None:
    good, registry = bad_registry.answer, layer.registry
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
    layer: OneLayer, bad_registry: BadRegistry, tmp_path: Path
) -> None:
    (tmp_path / "certs.d/_default").mkdir(parents=True)
    (tmp_path / "certs.d/_default/hosts.toml").write_text(f'server = "http://{bad_registry.host}"\n')
    reference = Reference.parse("private.example/some/app:v1")
    async with layer.registry.repository(reference, Credentials("u", "p"), push=True) as repository:
        await repository.resolve()
        with pytest.raises(UnavailableError, match="may push"):
            await repository.push_document("v1", "", b"")
    assert all("Authorization" not in headers for _, _, headers in bad_registry.requests)
