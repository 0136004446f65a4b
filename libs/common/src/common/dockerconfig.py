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

HELPER_S = 30.0
HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = (HUB, "index.docker.io", "registry-1.docker.io")
_MAX_BYTES = 1 << 20
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


def _read(config: Path) -> dict[str, Any]:
    try:
        with config.open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no JSON"
        raise FailedPreconditionError(f"{config}: cannot be read: {why}") from exc
    sections = ("auths", "credHelpers")
    if not isinstance(document, dict) or not all(isinstance(document.get(s) or {}, dict) for s in sections):
        raise FailedPreconditionError(f"{config}: is no config of docker")
    return document


def _stored(config: Path, auths: dict[str, Any], registry: str, path: str) -> Login | None:
    best, chosen = -1, None
    for key, entry in auths.items():
        host, _, prefix = key.partition("://")[2].partition("/") if "://" in key else key.partition("/")
        prefix = "" if prefix.strip("/") in ("v1", "v2") else prefix.strip("/")
        same = host == registry or (registry == HUB and host in _HUB_HOSTS)
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
    if not _NAME.fullmatch(name):
        raise FailedPreconditionError(f"{config}: {name!r} is no name of a credential helper")
    command = [f"docker-credential-{name}", "get"]
    try:
        done = subprocess.run(
            command, input=server.encode(), capture_output=True, timeout=HELPER_S, check=False
        )
    except FileNotFoundError as exc:
        raise FailedPreconditionError(f"{config}: names {command[0]}, which is not installed") from exc
    except subprocess.TimeoutExpired as exc:
        raise FailedPreconditionError(f"{command[0]}: no answer within {HELPER_S:g} s") from exc
    if done.returncode:
        told = (done.stdout + done.stderr).decode(errors="replace").strip()
        if "not found" in told.lower():
            return None
        raise FailedPreconditionError(f"{command[0]} failed for {server}: {told[:200]}")
    try:
        answer = json.loads(done.stdout[:_MAX_BYTES])
        username, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, LookupError, TypeError) as exc:
        raise FailedPreconditionError(f"{command[0]}: its answer for {server} is no login") from exc
    if username == _TOKEN_USER:
        return Login(identity_token=secret)
    return Login(username, secret)
