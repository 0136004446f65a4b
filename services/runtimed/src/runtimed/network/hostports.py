"""Ports of the node that sandboxes claim: one of each address, number and protocol."""

import errno
import ipaddress
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from common.api.cri.v1 import api_pb2 as cri
from common.errors import FailedPreconditionError, InvalidArgumentError

_SOCKETS = {
    "TCP": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "UDP": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "SCTP": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
_NOT_HERE = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EADDRNOTAVAIL)
"""What a kernel says that has no IPv6 or no SCTP, with which nobody can have a port then."""


class HostPort(NamedTuple):
    """A port of the node; no address means all of them."""

    address: str
    number: int
    protocol: str

    def __str__(self) -> str:
        """As in messages."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.number}/{self.protocol}" if host else f"{self.number}/{self.protocol}"

    def meets(self, other: "HostPort") -> bool:
        """Whether there is an address on which both would be the same port."""
        if (self.number, self.protocol) != (other.number, other.protocol):
            return False
        if not self.address or not other.address:
            return True
        mine, theirs = ipaddress.ip_address(self.address), ipaddress.ip_address(other.address)
        if mine.version != theirs.version:
            return False
        return mine == theirs or mine.is_unspecified or theirs.is_unspecified


def wanted(config: cri.PodSandboxConfig) -> list[HostPort]:
    """What a sandbox claims; nothing with the node's network.

    Raises:
        InvalidArgumentError: it claims one port twice.
    """
    if config.linux.security_context.namespace_options.network == cri.NODE:
        return []
    found: list[HostPort] = []
    for mapping in config.port_mappings:
        if mapping.host_port:
            port = HostPort(mapping.host_ip, mapping.host_port, cri.Protocol.Name(mapping.protocol))
            if any(port.meets(other) for other in found):
                raise InvalidArgumentError(f"port_mappings: host port {port} is mapped twice")
            found.append(port)
    return found


def check_families(config: cri.PodSandboxConfig, ips: Iterable[str]) -> None:
    """Refuse a mapping from an address of a family in which the pod has none: nothing would be mapped.

    Raises:
        InvalidArgumentError: with the address.
    """
    there = {ipaddress.ip_address(ip).version for ip in ips}
    for port in wanted(config):
        if port.address and ipaddress.ip_address(port.address).version not in there:
            raise InvalidArgumentError(
                f"port_mappings.host_ip: {port.address!r}: the pod has no address of this family"
            )


def check_free(config: cri.PodSandboxConfig) -> None:
    """Refuse ports that a process of the node has: what is meant for it would come to the pod, without a word.

    Raises:
        FailedPreconditionError: with the port, also when the node lacks its address.
    """
    for port in wanted(config):
        for address in (port.address,) if port.address else ("0.0.0.0", "::"):
            try:
                _bind(address, port)
            except OSError as exc:
                if exc.errno == errno.EADDRINUSE:
                    raise FailedPreconditionError(
                        f"port_mappings: host port {port}: address already in use by a process of the node"
                    ) from exc
                if port.address and exc.errno == errno.EADDRNOTAVAIL:
                    raise FailedPreconditionError(
                        f"port_mappings: host port {port}: the node has no such address"
                    ) from exc
                if exc.errno not in _NOT_HERE:
                    raise FailedPreconditionError(f"port_mappings: host port {port}: {exc.strerror}") from exc


def _bind(address: str, port: HostPort) -> None:
    """Have a port for a moment, as a server would."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind, number = _SOCKETS[port.protocol]
    with socket.socket(family, kind | socket.SOCK_CLOEXEC, number) as held:
        if kind == socket.SOCK_STREAM:  # connections that have just ended keep no server away
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        held.bind((address, port.number))


class HostPorts:
    """Claims of sandboxes that have no record yet; those of the others are in their records."""

    def __init__(self) -> None:
        self._claims: dict[str, list[HostPort]] = {}

    @contextmanager
    def claim(
        self, sandbox_id: str, config: cri.PodSandboxConfig, others: Iterable[tuple[str, bytes]]
    ) -> Iterator[None]:
        """Hold a sandbox's ports until its record is stored.

        Args:
            sandbox_id: whose.
            config: what it wants.
            others: names and configurations of the sandboxes that have their ports.

        Raises:
            FailedPreconditionError: another sandbox has a port, with the port and its name.
        """
        ports = wanted(config)
        if ports:
            held = [(name, wanted(cri.PodSandboxConfig.FromString(raw))) for name, raw in others]
            for name, taken in [*held, *self._claims.items()]:
                for port in ports:
                    if any(port.meets(other) for other in taken):
                        raise FailedPreconditionError(
                            f"port_mappings: host port {port} is taken by sandbox {name}"
                        )
            self._claims[sandbox_id] = ports
        try:
            yield
        finally:
            self._claims.pop(sandbox_id, None)
