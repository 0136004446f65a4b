"""Whose credentials go with a pull or a push."""

import base64
import json
from argparse import Namespace
from pathlib import Path

import pytest

from common.api.images.v1 import images_pb2 as pb
from common.errors import InvalidArgumentError
from slipway.commands.logins import logout
from slipway.options.credentials import auth_of

PAIR = {"auth": base64.b64encode(b"me:pw").decode()}


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"reg.example/team": PAIR}}))
    return tmp_path / "config.json"


def test_the_option_goes_first() -> None:
    found = auth_of("reg.example/team/app:1", "you:p:w")
    assert found == pb.Auth(username="you", password="p:w", server_address="reg.example")


def test_then_what_docker_keeps_for_that_registry() -> None:
    assert auth_of("reg.example/team/app:1", "") == pb.Auth(
        username="me", password="pw", server_address="reg.example"
    )
    assert auth_of("reg.example/other/app:1", "") is None
    assert auth_of("app", "") is None


@pytest.mark.anyio
@pytest.mark.parametrize(
    "url", ["me:secret@reg.example", "https://me:secret@reg.example", "me@reg.example/team"]
)
async def test_a_registry_to_log_in_at_has_no_user_in_its_name(url: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"and the user by -u$"):
        await logout(Namespace(registry=url))


def test_without_dockers_config_nobody_is_named(config: Path) -> None:
    config.unlink()
    assert auth_of("reg.example/team/app:1", "") is None
