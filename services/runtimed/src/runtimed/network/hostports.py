"""Ports of the node that sandboxes claim: one of each address, number and protocol."""

import ipaddress
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from common.api.cri.v1 import api_pb2 as cri
from common.errors import FailedPreconditionError, InvalidArgumentError


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
