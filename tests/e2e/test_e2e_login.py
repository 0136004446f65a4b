"""`slipway login` and `logout`, with a registry that has accounts."""

import base64
import json
import os
import pty
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from devtools.registry import Registry, registry
from tests.support.node import TestNode
from tests.support.pace import patience

pytestmark = [pytest.mark.e2e, pytest.mark.root]
ACCOUNTS = "me:$2b$04$7avmIcUSCtBSH/ZWfbGoCuZmop83moJVq73pcerL7LHfTPcCEB3XG\n"
"""bcrypt of pass:word."""


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("closed"), ACCOUNTS) as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Docker's config of the one who calls."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return tmp_path / "docker" / "config.json"


def _login(node: TestNode, address: str, password: str) -> "subprocess.CompletedProcess[str]":
    return node.slipway("login", "-u", "me", "--password-stdin", address, stdin=f"{password}\n")


def test_a_login_is_checked_kept_used_and_forgotten(node: TestNode, closed: Registry, config: Path) -> None:
    name = f"{closed.address}/any/app:1"
    wrong = _login(node, closed.address, "wrong-secret")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "authentication required or denied" in wrong.stderr
    assert "wrong-secret" not in wrong.stderr
    assert not config.exists()
    assert "denied" in node.slipway("pull", name).stderr
    done = _login(node, f"http://{closed.address}/v2/", "pass:word")
    assert (done.returncode, done.stdout) == (0, f"Login Succeeded: kept in {config}\n"), done.stderr
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    auth = json.loads(config.read_text())["auths"][closed.address]["auth"]
    assert base64.b64decode(auth) == b"me:pass:word"
    missing = node.slipway("pull", name)
    assert missing.returncode == 1
    assert "does not have it (404)" in missing.stderr
    assert node.slipway("logout", closed.address).stdout == f"Removed the login for {closed.address}\n"
    assert "denied" in node.slipway("pull", name).stderr
    again = node.slipway("logout", closed.address)
    assert (again.returncode, again.stdout) == (0, f"There is no login for {closed.address}\n")


def test_skopeo_reads_what_is_kept_and_the_other_way_round(
    node: TestNode, closed: Registry, config: Path
) -> None:
    assert _login(node, closed.address, "pass:word").returncode == 0
    listing = ["skopeo", "list-tags", "--tls-verify=false", "--authfile", str(config)]
    found = subprocess.run(
        [*listing, f"docker://{closed.address}/no/such"],
        capture_output=True,
        text=True,
        timeout=patience(30),
        check=False,
    )
    assert "404" in found.stderr, found.stderr
    # and the other way round
    config.write_text("{}")
    login = [
        "skopeo",
        "login",
        "--tls-verify=false",
        "--authfile",
        str(config),
        "-u",
        "me",
        "--password-stdin",
    ]
    subprocess.run([*login, closed.address], input=b"pass:word", check=True, timeout=patience(30))
    assert "404" in node.slipway("pull", f"{closed.address}/no/such:1").stderr


def test_a_registry_that_asks_for_no_login_is_told_of(node: TestNode, shop: Registry, config: Path) -> None:
    done = _login(node, shop.address, "any")
    assert done.returncode == 0
    assert f"{shop.address} asks for no login" in done.stderr
    assert shop.address in json.loads(config.read_text())["auths"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["reg.example"], "no terminal"),
        (["--password-stdin", "reg.example"], "whose?"),
        (["-u", "me", "--password-stdin", "reg.example"], "not empty"),
        (["-u", "me", "--password-stdin", "noregistry"], "want HOST"),
    ],
)
def test_what_is_missing_is_named(node: TestNode, config: Path, arguments: list[str], told: str) -> None:
    done = node.slipway("login", *arguments)
    assert done.returncode == 1
    assert told in done.stderr
    assert not config.exists()


def test_a_password_is_asked_for_on_a_terminal_and_not_shown(
    node: TestNode, closed: Registry, config: Path
) -> None:
    command = [
        str(Path(sys.executable).parent / "slipway"),
        "--run-dir",
        str(node.run_dir),
        "login",
        closed.address,
    ]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(command[0], command)  # noqa: S606 - a terminal of its own
    shown = b""
    answers = iter([(b"Username: ", b"me\n"), (b"Password: ", b"pass:word\n")])
    wanted, answer = next(answers)
    with suppress(OSError):  # EIO, once it has ended
        while piece := os.read(terminal, 1000):
            shown += piece
            if wanted and shown.endswith(wanted):
                os.write(terminal, answer)
                wanted, answer = next(answers, (b"", b""))
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0, shown
    assert b"Login Succeeded" in shown
    assert b"pass:word" not in shown
    assert closed.address in json.loads(config.read_text())["auths"]
