"""Where an image may be fetched from: containerd's certs.d directories with hosts.toml, read at each pull."""

import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common.errors import FailedPreconditionError
from common.settings import refused_value

DOCKER_HUB = "registry-1.docker.io"
_HUB_NAMES = ("docker.io", "index.docker.io", DOCKER_HUB)
_ALL = frozenset({"pull", "resolve", "push"})
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|\[?::1\]?")
_ANY = "_default"
_KNOWN = _ALL | {"referrers"}
"""The last is a word of containerd: we ask who may resolve, and then the next host, for what refers to a document."""
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
"""Of a duration of Go (time.ParseDuration), such as 1m30s."""


@dataclass(frozen=True, slots=True)
class Host:
    """One place to ask, and how to reach it."""

    url: str
    """Scheme, host and path up to and with /v2, without a slash at the end."""
    capabilities: frozenset[str] = _ALL
    skip_verify: bool = False
    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    """Pairs of certificate and key files."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    mirror_of: str = ""
    """For a mirror, the registry that it stands in for."""
    serves: str = ""
    """The registry that this host is, by another name than its own."""
    connect_timeout_s: float = 0.0

    @property
    def asked_for(self) -> str:
        """The registry that is meant, where the host's own name does not say it."""
        return self.mirror_of or self.serves

    @property
    def name(self) -> str:
        return urlsplit(self.url).netloc


def same_registry(first: str, second: str) -> bool:
    """Whether two host names mean one registry; Docker Hub has several."""
    return first == second or (first in _HUB_NAMES and second in _HUB_NAMES)


def find(certs_dir: str, domain: str) -> list[Host]:
    """The places for a registry, in the order in which to ask them; its own server is the last.

    Raises:
        FailedPreconditionError: a hosts.toml cannot be read; the message names it.
    """
    for directory in _directories(Path(certs_dir), domain):
        if (directory / "hosts.toml").is_file():
            return _from_toml(directory / "hosts.toml", domain)
        if directory.is_dir() and any(directory.iterdir()):
            return _defaults(domain, ca=_files(directory, "*.crt"), client=_pairs(directory))
    return _defaults(domain)


def _directories(root: Path, domain: str) -> list[Path]:
    name, colon, port = domain.rpartition(":")
    underscored = [root / f"{name}_{port}_"] if colon and port.isdigit() else []
    return [*underscored, root / domain, root / _ANY]


def _defaults(domain: str, ca: tuple[str, ...] = (), client: tuple[tuple[str, str], ...] = ()) -> list[Host]:
    server = DOCKER_HUB if domain in _HUB_NAMES else domain
    secure = Host(f"https://{server}/v2", ca=ca, client=client)
    hostname, colon, port = server.rpartition(":")
    if ca or not _LOOPBACK.fullmatch(hostname if colon and port.isdigit() else server):
        return [secure]
    # as docker: a registry on this machine may have any certificate, or none
    return [Host(secure.url, skip_verify=True, client=client), Host(f"http://{server}/v2")]


def _from_toml(path: Path, domain: str) -> list[Host]:
    try:
        table = tomllib.loads(path.read_text())
        hosts = [_host(path, url, entry, domain) for url, entry in table.get("host", {}).items()]
        server = str(table.get("server", ""))
        plain = {key: value for key, value in table.items() if key not in ("server", "host")}
        if not server and not plain:
            return hosts + _defaults(domain)
        default = f"https://{DOCKER_HUB if domain in _HUB_NAMES else domain}"
        last = _host(path, server or default, plain, domain)
        if path.parent.name != _ANY:
            # whoever wrote this for one registry knows where it is; what all others share is a mirror
            last = replace(last, mirror_of="", serves=last.mirror_of)
        return [*hosts, last]
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as exc:
        raise FailedPreconditionError(f"registry settings {path}: {exc}") from exc


def _host(path: Path, url: str, entry: dict[str, Any], domain: str) -> Host:
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"host {refused_value(url)!r} wants http://HOST or https://HOST")
    # as containerd: who logs in is not said here
    place = parts.netloc.rpartition("@")[2]
    prefix = parts.path.rstrip("/")
    if not entry.get("override_path", False) and not prefix.endswith("/v2"):
        prefix += "/v2"
    capabilities = frozenset(entry.get("capabilities", _ALL))
    if capabilities - _KNOWN:
        raise ValueError(f"host {refused_value(url)!r}: unknown capabilities {sorted(capabilities - _KNOWN)}")
    return Host(
        f"{parts.scheme}://{place}{prefix}",
        capabilities=capabilities,
        skip_verify=bool(entry.get("skip_verify", False)),
        ca=tuple(str(path.parent / name) for name in _list(entry.get("ca", []))),
        client=_clients(path.parent, entry.get("client", [])),
        headers=tuple((k, _header(k, v)) for k, vs in entry.get("header", {}).items() for v in _list(vs)),
        mirror_of="" if same_registry(place, domain) else domain,
        connect_timeout_s=_seconds(entry.get("dial_timeout", "0s")),
    )


def _header(name: str, value: Any) -> str:
    if not isinstance(value, str) or not (name + value).isprintable():
        raise ValueError(f"header {name!r} wants printable text")
    return value


def _clients(base: Path, value: Any) -> tuple[tuple[str, str], ...]:
    """A file with both parts, a list of such files, or a list of [certificate, key] pairs."""
    pairs = []
    for item in _list(value):
        cert, key = (item, item) if isinstance(item, str) else (item[0], item[1] or item[0])
        pairs.append((str(base / cert), str(base / key)))
    return tuple(pairs)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _seconds(text: str) -> float:
    if text == "0":
        return 0.0
    if not text or _PART.sub("", text):
        raise ValueError(f"dial_timeout {text!r} wants a duration such as 1m30s")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def _files(directory: Path, pattern: str) -> tuple[str, ...]:
    return tuple(str(path) for path in sorted(directory.glob(pattern)))


def _pairs(directory: Path) -> tuple[tuple[str, str], ...]:
    certs = sorted(directory.glob("*.cert"))
    return tuple((str(c), str(c.with_suffix(".key"))) for c in certs if c.with_suffix(".key").is_file())
