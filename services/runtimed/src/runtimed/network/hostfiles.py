"""The files that a sandbox's containers see as /etc/resolv.conf and /etc/hostname, and those of the host."""

import ipaddress
import re
from pathlib import Path
from typing import Any

from common.errors import InvalidArgumentError
from common.sys.hostroot import HostRoot

HOST_RESOLV_CONF, HOSTS = "/etc/resolv.conf", "/etc/hosts"
UPSTREAM_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"
"""Where systemd-resolved has the servers behind its own on loopback."""
MAX_RESOLV_CONF_BYTES = 1 << 20
_NAMESERVER = re.compile(rb"^nameserver[ \t]+([^\s%]+)", re.MULTILINE)
_WORD = re.compile(r"[^\s\x00-\x1f\x7f#;]+")


def write_resolv_conf(path: str, dns_config: Any, host: HostRoot, *, host_network: bool) -> None:
    """Write CRI's servers, searches and options, or a copy of the host's file when there are none.

    A server on the host's loopback does not answer a pod with a network of its own: those behind it are taken, where
    they are known.

    Raises:
        InvalidArgumentError: a value that would make another line or word of it.
    """
    lines = []
    for field, word in (("searches", "search"), ("servers", "nameserver"), ("options", "options")):
        values = list(getattr(dns_config, field))
        for value in values:
            if not _WORD.fullmatch(value):
                raise InvalidArgumentError(
                    f"dns_config.{field}: {value!r} has a space or a control character"
                )
        if word == "nameserver":
            lines += [f"nameserver {value}\n" for value in values]
        elif values:
            lines.append(f"{word} {' '.join(values)}\n")
    _write(path, "".join(lines).encode() if lines else _host_resolv_conf(host, host_network=host_network))


def _host_resolv_conf(host: HostRoot, *, host_network: bool) -> bytes:
    plain = _read(host, HOST_RESOLV_CONF)
    if host_network or not _only_loopback(plain):
        return plain
    upstream = _read(host, UPSTREAM_RESOLV_CONF)
    return upstream if _NAMESERVER.search(upstream) and not _only_loopback(upstream) else plain


def _read(host: HostRoot, path: str) -> bytes:
    try:
        with Path(host.here(path)).open("rb") as file:
            return file.read(MAX_RESOLV_CONF_BYTES)
    except FileNotFoundError:
        return b""


def host_hosts(host: HostRoot) -> str:
    """The host's own /etc/hosts; empty without one. Blocking."""
    return _read(host, HOSTS).decode(errors="replace")


def _only_loopback(content: bytes) -> bool:
    """Whether it has servers, and each is the host itself."""
    servers = [server.decode(errors="replace") for server in _NAMESERVER.findall(content)]
    try:
        return bool(servers) and all(ipaddress.ip_address(server).is_loopback for server in servers)
    except ValueError:
        return False


def write_hostname(path: str, name: str) -> None:
    """Write the file that is mounted on /etc/hostname."""
    _write(path, f"{name}\n".encode())


def _write(path: str, content: bytes) -> None:
    # Read by every user of the containers, made anew at each creation of a sandbox: no fsync.
    target = Path(path)
    temporary = target.with_name(f".{target.name}.new")
    temporary.write_bytes(content)
    temporary.chmod(0o644)
    temporary.replace(target)
