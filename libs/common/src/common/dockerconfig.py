"""Logins that docker keeps: config.json with auths, credsStore and credHelpers. Blocking.

Formats: docker/cli, "docker login", and docker/docker-credential-helpers. Keys may be hosts, URLs, or a host with
the beginning of a path, of which the longest counts.
"""

import base64
import binascii
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import FailedPreconditionError
from common.sys.files import replace_file

HELPER_S = 30.0
HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = (HUB, "index.docker.io", "registry-1.docker.io")
_MAX_BYTES = 1 << 20
HOMES = ("/root", "/home", "/run/user")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TOKEN_USER = "<token>"  # noqa: S105 - what helpers say in place of a user


@dataclass(frozen=True, slots=True, repr=False)
class Login:
    """Of one registry; never printed."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""


def registry_of(reference: str) -> tuple[str, str]:
    """The registry and the repository that a reference means, as docker reads it; nothing is checked."""
    name = reference.partition("@")[0]
    head, slash, rest = name.partition("/")
    if not slash or not ("." in head or ":" in head or head == "localhost"):
        head, rest = HUB, name
    path = rest.rpartition(":")[0] if ":" in rest.rpartition("/")[2] else rest
    return (HUB if head in _HUB_HOSTS else head), path


def find_login(config: Path, registry: str, path: str = "") -> Login | None:
    """The login for a registry, or None.

    Args:
        config: docker's config.json; it need not be there.
        registry: a host, with its port.
        path: the repository, for keys with a path.

    Raises:
        FailedPreconditionError: the file or a helper is at fault; the message names it, and tells no secret.
    """
    document = _read(config)
    helper = (document.get("credHelpers") or {}).get(registry)
    keys = [registry] if registry != HUB else [_HUB_KEY, *_HUB_HOSTS]
    if helper is None and registry == HUB:
        helper = (document.get("credHelpers") or {}).get(_HUB_KEY)
    for name in filter(None, (helper, document.get("credsStore"))):
        for key in keys:
            login = _ask(config, str(name), key)
            if login:
                return login
    return _stored(config, document.get("auths") or {}, registry, path)


def check_readable(config: Path) -> None:
    """Refuse, at the start of a service, a file that it will never be able to read; one that is not there may come.

    Raises:
        FailedPreconditionError: it cannot be read, as in a home, which systemd hides from the service.
    """
    try:
        config.open("rb").close()
    except FileNotFoundError:
        return
    except OSError as exc:
        why = f"logins in {config} cannot be read: {exc.strerror}"
        if any(config.is_relative_to(home) for home in HOMES):
            why += (
                "; the service sees no homes (ProtectHome=yes): copy the file, as to /etc/slipway/docker.json"
            )
        raise FailedPreconditionError(why) from exc


def keep_login(config: Path, registry: str, login: Login) -> str:
    """Keep a login where docker looks for it: with the registry's credential helper, or else in the file.

    Args:
        config: docker's config.json; made when absent, and what else is in it stays.
        registry: a host, with its port.
        login: a user and a password.

    Returns:
        Where it is now.

    Raises:
        FailedPreconditionError: the file or a helper is at fault; the message tells no secret.
    """
    document, key = _read(config), _key(registry)
    helper = _helper_of(document, registry)
    entry: dict[str, str] = {}
    if helper:
        told = {"ServerURL": key, "Username": login.username, "Secret": login.password}
        _told(_run(config, helper, "store", json.dumps(told)), helper, key)
    else:
        pair = f"{login.username}:{login.password}".encode()
        entry = {"auth": base64.b64encode(pair).decode()}
    document["auths"] = {**(document.get("auths") or {}), key: entry}
    _write(config, document)
    return f"credential helper {helper}" if helper else str(config)


def drop_login(config: Path, registry: str) -> bool:
    """Forget a login; returns whether there was one.

    Raises:
        FailedPreconditionError: the file or a helper is at fault.
    """
    document = _read(config)
    helper = _helper_of(document, registry)
    had = find_login(config, registry) is not None
    auths = document.get("auths") or {}
    gone = {key for key in auths if _host(key)[0] in _hosts(registry) and not _host(key)[1]}
    if helper and had:
        _told(_run(config, helper, "erase", _key(registry)), helper, _key(registry))
    if gone:
        document["auths"] = {key: entry for key, entry in auths.items() if key not in gone}
        _write(config, document)
    return had


def _key(registry: str) -> str:
    return _HUB_KEY if registry == HUB else registry


def _hosts(registry: str) -> tuple[str, ...]:
    return _HUB_HOSTS if registry == HUB else (registry,)


def _host(key: str) -> tuple[str, str]:
    """The host of a key of `auths`, and the beginning of a repository."""
    host, _, prefix = key.partition("://")[2].partition("/") if "://" in key else key.partition("/")
    return host, "" if prefix.strip("/") in ("v1", "v2") else prefix.strip("/")


def _helper_of(document: dict[str, Any], registry: str) -> str:
    helpers = document.get("credHelpers") or {}
    found = next((helpers[key] for key in (registry, _key(registry)) if helpers.get(key)), None)
    return str(found or document.get("credsStore") or "")


def _write(config: Path, document: dict[str, Any]) -> None:
    path = config.resolve()  # a link stays one
    try:
        replace_file(path, json.dumps(document, indent="\t").encode() + b"\n")
    except OSError as exc:
        raise FailedPreconditionError(f"{config}: cannot be written: {exc.strerror}") from exc


def _read(config: Path) -> dict[str, Any]:
    try:
        with config.open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no JSON"
        raise FailedPreconditionError(f"{config}: cannot be read: {why}") from exc
    sections = ("auths", "credHelpers")
    if not isinstance(document, dict) or not all(isinstance(document.get(s) or {}, dict) for s in sections):
        raise FailedPreconditionError(f"{config}: is no config of docker")
    return document


def _stored(config: Path, auths: dict[str, Any], registry: str, path: str) -> Login | None:
    best, chosen = -1, None
    for key, entry in auths.items():
        host, prefix = _host(key)
        same = host in _hosts(registry)
        fits = not prefix or path == prefix or path.startswith(f"{prefix}/")
        if same and fits and len(prefix) > best and isinstance(entry, dict) and entry:
            best, chosen = len(prefix), entry
    if chosen is None:
        return None
    username, password = str(chosen.get("username", "")), str(chosen.get("password", ""))
    if chosen.get("auth") and not username:
        try:
            pair = base64.b64decode(str(chosen["auth"]), validate=True).decode().rstrip("\x00")
        except (binascii.Error, UnicodeDecodeError) as exc:
            raise FailedPreconditionError(
                f"{config}: auth of {registry} is no base64 of user:password"
            ) from exc
        username, _, password = pair.partition(":")
    return Login(
        username, password, str(chosen.get("identitytoken", "")), str(chosen.get("registrytoken", ""))
    )


def _ask(config: Path, name: str, server: str) -> Login | None:
    """What a helper says of a server; it says so by words when it knows nothing."""
    command = f"docker-credential-{name}"
    done = _run(config, name, "get", server)
    if done.returncode and b"not found" in (done.stdout + done.stderr).lower():
        return None
    _told(done, name, server)
    try:
        answer = json.loads(done.stdout[:_MAX_BYTES])
        username, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, RecursionError, LookupError, TypeError) as exc:
        raise FailedPreconditionError(f"{command}: its answer for {server} is no login") from exc
    if username == _TOKEN_USER:
        return Login(identity_token=secret)
    return Login(username, secret)


def _run(config: Path, name: str, verb: str, told: str) -> "subprocess.CompletedProcess[bytes]":
    if not _NAME.fullmatch(name):
        raise FailedPreconditionError(f"{config}: {name!r} is no name of a credential helper")
    command = [f"docker-credential-{name}", verb]
    try:
        return subprocess.run(
            command, input=told.encode(), capture_output=True, timeout=HELPER_S, check=False
        )
    except FileNotFoundError as exc:
        raise FailedPreconditionError(f"{config}: names {command[0]}, which is not installed") from exc
    except subprocess.TimeoutExpired as exc:
        raise FailedPreconditionError(f"{command[0]}: no answer within {HELPER_S:g} s") from exc


def _told(done: "subprocess.CompletedProcess[bytes]", name: str, server: str) -> None:
    """Raise what a helper that failed says."""
    if done.returncode:
        told = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise FailedPreconditionError(f"docker-credential-{name} failed for {server}: {told[:200]}")
