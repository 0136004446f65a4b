"""Logins of docker's config.json and its credential helpers."""

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from common import dockerconfig
from common.dockerconfig import Login, check_readable, drop_login, find_login, keep_login, registry_of
from common.errors import FailedPreconditionError

PAIR = {"auth": base64.b64encode(b"me:pass:word").decode()}
HUB_KEY = "https://index.docker.io/v1/"
MINE = Login("me", "pass:word")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


def write(config: Path, **document: object) -> None:
    config.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("reference", "registry", "path"),
    [
        ("busybox", "docker.io", "busybox"),
        ("me/app:1", "docker.io", "me/app"),
        ("docker.io/me/app", "docker.io", "me/app"),
        ("index.docker.io/me/app", "docker.io", "me/app"),
        ("reg.example/a/b:1", "reg.example", "a/b"),
        ("localhost:5000/a@sha256:" + "0" * 64, "localhost:5000", "a"),
        ("localhost/a", "localhost", "a"),
    ],
)
def test_the_registry_of_a_reference(reference: str, registry: str, path: str) -> None:
    assert registry_of(reference) == (registry, path)


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("reg.example", "reg.example"),
        ("https://reg.example", "reg.example"),
        ("https://reg.example/v2/", "reg.example"),
        ("reg.example:5000", "reg.example:5000"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
    ],
)
def test_a_stored_login_is_found_by_its_registry_only(config: Path, key: str, registry: str) -> None:
    write(config, auths={key: PAIR})
    assert find_login(config, registry) == MINE
    assert find_login(config, "other.example") is None
    assert find_login(config, f"evil-{registry}") is None


def test_the_longest_path_counts(config: Path) -> None:
    other = {"username": "team", "password": "x"}
    write(
        config,
        auths={
            "reg.example": PAIR,
            "reg.example/team": other,
            "reg.example/team/app": {"identitytoken": "t"},
        },
    )
    assert find_login(config, "reg.example", "mine/app") == MINE
    assert find_login(config, "reg.example", "teams/app") == MINE
    assert find_login(config, "reg.example", "team/web") == Login("team", "x")
    assert find_login(config, "reg.example", "team/app") == Login(identity_token="t")


def helper(directory: Path, name: str, script: str) -> None:
    path = directory / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\nread server\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    helper(tmp_path, "good", """echo '{"ServerURL":"'$server'","Username":"u","Secret":"'$server'"}'""")
    helper(tmp_path, "token", """echo '{"Username":"<token>","Secret":"t"}'""")
    helper(tmp_path, "empty", "echo credentials not found in native keychain; exit 1")
    helper(tmp_path, "broken", "echo the keyring is locked >&2; exit 1")
    helper(tmp_path, "noise", "echo hello")
    return tmp_path


def test_helpers_are_asked_before_what_is_stored(config: Path, helpers: Path) -> None:
    write(
        config,
        auths={"a.example": PAIR, "b.example": PAIR},
        credHelpers={"a.example": "good"},
        credsStore="empty",
    )
    assert find_login(config, "a.example") == Login("u", "a.example")
    assert find_login(config, "b.example") == MINE
    write(config, credsStore="token")
    assert find_login(config, "c.example") == Login(identity_token="t")
    write(config, credsStore="good")
    assert find_login(config, "docker.io") == Login("u", "https://index.docker.io/v1/")
    write(config, credsStore="empty")
    assert find_login(config, "c.example") is None


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("broken", "keyring is locked"),
        ("noise", "no login"),
        ("absent", "not installed"),
        ("../x", "no name"),
    ],
)
def test_a_helper_at_fault_is_named(config: Path, helpers: Path, name: str, told: str) -> None:
    write(config, credsStore=name)
    with pytest.raises(FailedPreconditionError, match=told):
        find_login(config, "a.example")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 9999, '{"auths": 1}', '{"auths": {"a.example": {"auth": "%%secret"}}}']
)
def test_a_file_at_fault_is_named_and_tells_nothing(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(FailedPreconditionError, match=r"config\.json") as caught:
        find_login(config, "a.example")
    assert "secret" not in caught.value.message


def test_no_file_is_no_login(config: Path) -> None:
    assert find_login(config, "a.example") is None


def test_a_login_is_not_shown() -> None:
    assert "pass" not in repr(MINE)


@pytest.mark.parametrize("registry", ["reg.example:5000", "docker.io"])
def test_a_login_is_kept_beside_others_and_forgotten_alone(config: Path, registry: str) -> None:
    write(config, auths={"other.example": PAIR, f"{registry}/team": PAIR}, HttpHeaders={"a": "b"})
    assert keep_login(config, registry, Login("u", "p:w")) == str(config)
    assert find_login(config, registry) == Login("u", "p:w")
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    kept = json.loads(config.read_text())
    assert kept["HttpHeaders"] == {"a": "b"}
    assert base64.b64decode(kept["auths"][registry if ":" in registry else HUB_KEY]["auth"]) == b"u:p:w"
    assert drop_login(config, registry)
    assert not drop_login(config, registry)
    assert sorted(json.loads(config.read_text())["auths"]) == sorted(["other.example", f"{registry}/team"])


def test_the_file_is_made_and_a_link_stays_one(tmp_path: Path) -> None:
    new = tmp_path / "new" / "config.json"
    assert not drop_login(new, "reg.example")
    assert not new.exists()
    keep_login(new, "reg.example", Login("u", "p"))
    assert find_login(new, "reg.example") == Login("u", "p")
    link = tmp_path / "link.json"
    link.symlink_to(new)
    keep_login(link, "b.example", Login("v", "q"))
    assert link.is_symlink()
    assert find_login(new, "b.example") == Login("v", "q")


def test_a_helper_keeps_and_forgets(config: Path, helpers: Path) -> None:
    (helpers / "docker-credential-real").write_text(
        f"""#!/bin/sh
read text
case $1 in
  store) echo "$text" > {helpers}/kept ;;
  erase) echo "$text" > {helpers}/erased; rm {helpers}/kept ;;
  get) cat {helpers}/kept 2>/dev/null || {{ echo credentials not found; exit 1; }} ;;
esac
"""
    )
    (helpers / "docker-credential-real").chmod(0o755)
    write(config, credHelpers={"a.example": "real"})
    assert keep_login(config, "a.example", Login("u", "secret")) == "credential helper real"
    assert json.loads((helpers / "kept").read_text()) == {
        "ServerURL": "a.example",
        "Username": "u",
        "Secret": "secret",
    }
    assert "secret" not in config.read_text()
    assert json.loads(config.read_text())["auths"] == {"a.example": {}}
    assert find_login(config, "a.example") == Login("u", "secret")
    assert drop_login(config, "a.example")
    assert (helpers / "erased").read_text() == "a.example\n"
    assert not drop_login(config, "a.example")
    write(config, credsStore="broken")
    with pytest.raises(FailedPreconditionError, match="keyring is locked") as caught:
        keep_login(config, "a.example", Login("u", "secret"))
    assert "secret" not in caught.value.message


def test_a_file_that_cannot_be_read_is_refused_and_one_in_a_home_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_readable(tmp_path / "comes/later.json")
    (tmp_path / "file").touch()
    hidden = tmp_path / "file/config.json"
    with pytest.raises(FailedPreconditionError, match=r"config.json cannot be read: Not a directory$"):
        check_readable(hidden)
    monkeypatch.setattr(dockerconfig, "HOMES", (str(tmp_path),))
    with pytest.raises(FailedPreconditionError, match=r"Not a directory; the service sees no homes"):
        check_readable(hidden)
