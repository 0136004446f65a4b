"""Settings: what is wrong refuses to start and says where."""

import json
from pathlib import Path

import pytest

from common.settings import CommonSettings, Count, load


class Settings(CommonSettings, frozen=True, kw_only=True):
    limit: Count = 3
    handlers: dict[str, str] = {}


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.toml"
    path.write_text('limit = 5\nrun_dir = "/run/x"\n')
    monkeypatch.setenv("SLIPWAY_DAEMON_LIMIT", "7")
    monkeypatch.setenv("SLIPWAY_DAEMON_HANDLERS", '{"crun": "/usr/bin/crun"}')
    settings = load(Settings, "daemon", ["--config", str(path)])
    assert (settings.limit, settings.run_dir, settings.handlers) == (7, "/run/x", {"crun": "/usr/bin/crun"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limits = 5", "unknown setting 'limits'"),
        ('limit = "many"', "limit"),
        ("limit = ", "d.toml"),
        ("[limit]", "limit"),
        ("limit = 0", "limit = 0: Expected `int` >= 1"),
        (
            'metrics_address = "9471"',
            "metrics_address = '9471': want HOST:PORT, an IPv6 address in brackets; empty for none",
        ),
        ('redis_url = "db:6379"', "redis_url = 'db:6379': want unix://PATH, redis://"),
        ('nats_url = "nats://a,b:4222"', "nats_url = 'nats://a,b:4222': want nats://TOKEN@HOST:PORT, more "),
        ('log_level = "loud"', "log_level = 'loud': want one of 'debug', 'error', 'info', 'warning'"),
    ],
)
def test_a_wrong_file_is_refused_with_file_and_key(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "d.toml"
    path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        load(Settings, "daemon", ["--config", str(path)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert str(path) in error


def test_a_mode_may_be_octal_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_DAEMON_SOCKET_MODE", "0o660")
    assert load(Settings, "daemon", []).socket_mode == 0o660


def test_a_wrong_environment_variable_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_DAEMON_LIMTI", "7")
    with pytest.raises(SystemExit):
        load(Settings, "daemon", [])
    assert "SLIPWAY_DAEMON_LIMTI" in capsys.readouterr().err


def test_print_config_shows_every_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        load(Settings, "daemon", ["--print-config"])
    assert stopped.value.code == 0
    assert json.loads(capsys.readouterr().out)["limit"] == 3


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("node:p@ss:w@db:6379", "***@db:6379"),
        ("nats:/token@a:4222", "***@a:4222"),
        ("nats://token@a:4222,u:p@b:4222", "nats://***@b:4222"),
        ("u:p@a:4222,nats://token@b:4222", "***@b:4222"),
        ("app@sha256:0", "app@sha256:0"),
    ],
)
def test_what_is_refused_is_told_without_passwords(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_DAEMON_NATS_URL", url)
    with pytest.raises(SystemExit):
        load(Settings, "daemon", [])
    assert f"nats_url = {said!r}: want" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://node:p@ss:w@db:6379/0", "redis://***@db:6379/0"),
        ("rediss://:secret@db", "rediss://***@db"),
        ("unix:///run/redis.sock?db=1&password=secret&x=y", "unix:///run/redis.sock?db=1&password=***&x=y"),
        ("nats://token@a:4222,nats://u:p@b:4222", "nats://***@a:4222,nats://***@b:4222"),
        ("nats://a:4222/path@2", "nats://a:4222/path@2"),
    ],
)
def test_what_is_shown_has_no_passwords(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "nats_url" if url.startswith("nats:") else "redis_url"
    monkeypatch.setenv(f"SLIPWAY_DAEMON_{key.upper()}", url)
    monkeypatch.setenv("SLIPWAY_DAEMON_HANDLERS", json.dumps({"proxy": url}))
    with pytest.raises(SystemExit):
        load(Settings, "daemon", ["--print-config"])
    found = json.loads(capsys.readouterr().out)
    assert (found[key], found["handlers"]) == (said, {"proxy": said})
    assert getattr(load(Settings, "daemon", []), key) == url
