"""Settings of a daemon: defaults, then a TOML file, then the environment; read once, at start.

An unknown key or a value of the wrong type refuses to start, and says where it stands.
"""

import os
import re
import socket
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Number = Annotated[int, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
"""0 is any free port."""
_PORT = "([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
Address = Annotated[
    str,
    msgspec.Meta(
        pattern=f"^(|[^:]+:{_PORT}|\\[.+\\]:{_PORT})$",
        description="HOST:PORT, an IPv6 address in brackets; empty for none",
    ),
]


_NATS = r"(nats|tls|wss?)://[^\s,]+"
NatsUrl = Annotated[
    str,
    msgspec.Meta(
        pattern=f"^{_NATS}(,{_NATS})*$",
        description="nats://TOKEN@HOST:PORT, more of one cluster after commas",
    ),
]
RedisUrl = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(unix|rediss?)://\S+$",
        description="unix://PATH, redis://:PASSWORD@HOST:PORT/NUMBER or rediss://",
    ),
]
EVENTS_MAX_BYTES = 1 << 30
EVENTS_MAX_AGE_S = 7 * 86400
EVENTS_MAX_REPEATS = 128
OUTBOX_MAX_BYTES = 256 << 20


class CommonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every daemon has; each daemon's own settings extend it."""

    node: str = msgspec.field(default_factory=socket.gethostname)
    """Name of this node in event subjects and records."""
    run_dir: str = "/run/slipway"
    """Sockets, mounts and all else that a reboot may empty."""
    data_dir: str = "/var/lib/slipway"
    """Blobs, layers, records and all else that must outlive a reboot."""
    redis_url: RedisUrl = "unix:///run/slipway/redis.sock"
    """Where the state is held: unix://, redis:// or rediss://. Its clock agrees with the node's to a few seconds."""
    nats_url: NatsUrl = "nats://127.0.0.1:4222"
    """Where lifecycle events go; nats://TOKEN@HOST:PORT if the server asks for a token, more servers of its cluster after commas."""
    events_max_bytes: Count = EVENTS_MAX_BYTES
    """What the events of all nodes on this NATS may take there until the oldest go; the same on each, or the last one to start decides."""
    events_max_age_s: Seconds = EVENTS_MAX_AGE_S
    """How old an event becomes there; as above."""
    events_max_repeats: Count = EVENTS_MAX_REPEATS
    """How many events of one kind about one object are kept there, and of one container's commands; as above."""
    outbox_max_bytes: Count = OUTBOX_MAX_BYTES
    """What the service's events may take in Redis while NATS is away: from half of it on those of commands and of pressure are given up, then the oldest."""
    otlp_endpoint: str = ""
    """Where traces go, as http://HOST:PORT or unix:PATH (OTLP over gRPC); empty for nowhere."""
    metrics_address: Address = ""
    """Where Prometheus scrapes /metrics, as HOST:PORT; RUN_DIR/metrics/SERVICE.sock answers too. Empty for that alone."""
    socket_mode: int = 0o600
    """Mode of the service's socket; crid's is 0o660."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is written to stderr, as JSON lines."""


PRINT, EXPLAIN = "--print-config", "--explain-config"
T = TypeVar("T", bound=CommonSettings)
_OCTAL = re.compile(r"0o[0-7]{1,8}")
"""An integer as TOML writes a mode."""
_USER_INFO = re.compile(r"(?<=://)[^/?#\s]*@|(?<=[?&]password=)[^&#\s]*")
"""Also the password that redis-py takes from the query of a unix:// URL."""
_BARE_USER_INFO = re.compile(r"(?:^|(?<=,))(?![^\s,]*://)\S*@(?!sha\d+:)")
"""Of what would be a URL, or one of several after commas, if it had its scheme; `@sha256:` is that of an image."""


def load(cls: type[T], daemon: str, argv: list[str]) -> T:
    """Read the settings; `--config FILE`, `--print-config`, `--explain-config` and `--help` are understood.

    Of files, the last wins.

    A setting that is wrong ends the process with status 2 and one sentence on stderr.
    """
    paths, show = _arguments(daemon, argv)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for path in paths:
        found = _read_toml(path)
        values |= found
        sources |= dict.fromkeys(found, path)
    prefix = f"SLIPWAY_{daemon.upper()}_"
    fields = {field.name: field for field in msgspec.structs.fields(cls)}
    for name, text in os.environ.items():
        if name.startswith(prefix):
            key = name.removeprefix(prefix).lower()
            values[key] = _from_text(text, fields[key].type) if key in fields else text
            sources[key] = name
    for key in values:
        if key not in fields:
            _refuse(f"{daemon}: {sources[key]}: unknown setting {key!r}; known are {', '.join(fields)}")
    settings = _convert(cls, daemon, values, sources)
    if show:
        told = shown(settings) if show == PRINT else _explained(settings, sources)
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(told)) + b"\n")
        raise SystemExit(0)
    return settings


def shown(settings: CommonSettings) -> Any:
    """Settings as they may be shown to people: builtins, without the user names and passwords in URLs."""
    return shown_value(msgspec.to_builtins(settings))


def _explained(settings: CommonSettings, sources: dict[str, str]) -> list[dict[str, Any]]:
    """Each setting with where its value comes from: a file, a variable, or `default`."""
    return [
        {"setting": name, "value": value, "source": sources.get(name, "default")}
        for name, value in shown(settings).items()
    ]


def without_secrets(url: str) -> str:
    """A URL as it may be shown to people: without user name, password and token."""
    return _USER_INFO.sub(lambda found: "***@" if found[0].endswith("@") else "***", url)


def refused_value(value: Any) -> Any:
    """One value that is refused, as it may be shown to people: also a URL that lacks its scheme."""
    return shown_value(value, lambda url: _BARE_USER_INFO.sub("***@", without_secrets(url)))


def shown_value(value: Any, bare: Callable[[str], str] = without_secrets) -> Any:
    """One value as it may be shown to people; see `shown`."""
    if isinstance(value, str):
        return bare(value)
    if isinstance(value, dict):
        return {key: shown_value(item, bare) for key, item in value.items()}
    return [shown_value(item, bare) for item in value] if isinstance(value, list | tuple) else value


def _arguments(daemon: str, argv: list[str]) -> tuple[list[str], str]:
    """The files, and PRINT or EXPLAIN when the settings are only to be shown."""
    usage = f"usage: {daemon} [--config FILE]... [--print-config | --explain-config]"
    paths: list[str] = []
    show = ""
    rest = iter(argv)
    for argument in rest:
        if argument == "--config":
            paths.append(next(rest, "") or _refuse(f"{daemon}: --config wants a file\n{usage}"))
        elif argument in (PRINT, EXPLAIN):
            show = argument
        elif argument in ("-h", "--help"):
            sys.stdout.write(usage + "\n")
            raise SystemExit(0)
        else:
            _refuse(f"{daemon}: unknown argument {argument!r}\n{usage}")
    return paths, show


def _read_toml(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        _refuse(f"settings {path}: {exc}")


def _from_text(text: str, kind: Any) -> Any:
    """A value from the environment: JSON for lists and tables, plain text for the rest."""
    if kind is int and _OCTAL.fullmatch(text):
        return int(text, 8)
    if kind in (str, int, float, bool):
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _convert(cls: type[T], daemon: str, values: dict[str, Any], sources: dict[str, str]) -> T:
    try:
        return msgspec.convert(values, cls, strict=False)
    except (msgspec.ValidationError, ValueError) as exc:
        key = next((k for k in values if re.search(rf"\$\.{k}\b", str(exc))), "")
        if not key:
            _refuse(f"{daemon}: {exc}")
        _refuse(f"{daemon}: {sources[key]}: {key} = {refused_value(values[key])!r}: {_wanted(cls, key, exc)}")


def refusal(cls: type[CommonSettings], key: str, value: Any) -> str:
    """Why a setting may not have this value; empty when it may."""
    try:
        msgspec.convert({key: value}, cls)
    except (msgspec.ValidationError, ValueError) as exc:
        return _wanted(cls, key, exc)
    return ""


def _wanted(cls: type[CommonSettings], key: str, exc: Exception) -> str:
    allowed, form = allowed_values(cls, key), _form(cls, key)
    if form and "matching regex" in str(exc):
        return f"want {form}"
    return f"want one of {', '.join(map(repr, allowed))}" if allowed else str(exc)


def allowed_values(cls: type[CommonSettings], key: str) -> list[Any]:
    """The values that a setting may have, where they are counted; else none."""
    fields = {field.name: field.type for field in msgspec.structs.fields(cls)}
    kind = msgspec.inspect.type_info(fields[key])
    return sorted(kind.values) if isinstance(kind, msgspec.inspect.LiteralType) else []


def _form(cls: type[CommonSettings], key: str) -> str:
    """What a setting looks like, where its type says so."""
    fields = {field.name: field.type for field in msgspec.structs.fields(cls)}
    kind = msgspec.inspect.type_info(fields[key])
    schema = kind.extra_json_schema if isinstance(kind, msgspec.inspect.Metadata) else None
    return str((schema or {}).get("description", ""))


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(message + "\n")
    raise SystemExit(2)
