"""Which requests go through a proxy, and the connections of one host's requests, wherever redirects lead them."""

import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import urllib3

_HEADERS = {"User-Agent": "slipway-imaged/0.1", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Proxies:
    """As http_proxy, https_proxy and no_proxy mean it to other programs."""

    http: str = ""
    https: str = ""
    direct: tuple[str, ...] = ()
    """Hosts, domains with all below them, addresses, networks, each for one port when it says so; `*` is everything."""

    def of(self, url: str) -> str:
        """The proxy for a URL; empty for none."""
        parts = urlsplit(url)
        proxy = self.https if parts.scheme == "https" else self.http
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return "" if not proxy or self._is_direct(parts.hostname or "", port) else proxy

    def _is_direct(self, host: str, port: int) -> bool:
        address = _address(host)
        if host == "localhost" or (address and address.is_loopback):
            return True
        for text in self.direct:
            entry, wanted = _split(text)
            if wanted and wanted != str(port):
                continue
            name = entry.removeprefix("*.").lstrip(".").lower()
            if entry == "*" or host == name or host.endswith(f".{name}"):
                return True
            if address and _network(entry) and address in _network(entry):  # type: ignore[operator]
                return True
        return False


class Pools:
    """Connections, direct or by a proxy as each URL wants. Thread-safe.

    Args:
        proxies: which.
        timeout: of each connection and read.
        context: for TLS; None for the system's.
    """

    def __init__(self, proxies: Proxies, timeout: urllib3.Timeout, context: ssl.SSLContext | None) -> None:
        self._proxies = proxies
        self._options: dict[str, Any] = {
            "num_pools": 8,
            "maxsize": 16,
            "timeout": timeout,
            "retries": False,
            "ssl_context": context,
        }
        self._by_proxy: dict[str, urllib3.PoolManager] = {}

    @cached_property
    def _direct(self) -> urllib3.PoolManager:
        return urllib3.PoolManager(**self._options)

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | str | IO[bytes] | Any = None,
        **options: Any,
    ) -> urllib3.BaseHTTPResponse:
        """As urllib3's."""
        sent = {**_HEADERS, **headers}
        return self._pool(url).request(method, url, headers=sent, body=body, **options)

    def clear(self) -> None:
        """Close all connections."""
        for pool in (self._direct, *self._by_proxy.values()):
            pool.clear()

    def _pool(self, url: str) -> urllib3.PoolManager:
        proxy = self._proxies.of(url)
        if not proxy:
            return self._direct
        if proxy not in self._by_proxy:
            self._by_proxy[proxy] = self._proxied(proxy)
        return self._by_proxy[proxy]

    def _proxied(self, proxy: str) -> urllib3.ProxyManager:
        parts = urlsplit(proxy)
        secret = None
        if parts.username:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            secret = urllib3.make_headers(proxy_basic_auth=pair)
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        return urllib3.ProxyManager(address, proxy_headers=secret, **self._options)


def _split(entry: str) -> tuple[str, str]:
    """A host and the port behind it, empty for any; an IPv6 address with a port is in brackets."""
    name, colon, port = entry.rpartition(":")
    if colon and port.isdigit() and (":" not in name or name.endswith("]")):
        entry = name
    else:
        port = ""
    return entry.removeprefix("[").removesuffix("]"), port


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
