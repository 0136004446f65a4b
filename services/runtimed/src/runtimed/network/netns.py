"""Namespaces of a sandbox, pinned by bind mounts so that they live without a process."""

import msgspec


class InterfaceStats(msgspec.Struct, frozen=True):
    """Counters of one network interface since it was made."""

    name: str
    rx_bytes: int
    rx_errors: int
    tx_bytes: int
    tx_errors: int


async def pin(directory: str, kinds: tuple[str, ...], *, sysctls: dict[str, str], hostname: str) -> dict[str, str]:
    """Make namespaces and pin each on <directory>/<kind>."""
    raise NotImplementedError


async def unpin(directory: str) -> None:
    """Unmount and remove what pin made; idempotent."""
    raise NotImplementedError


def read_interfaces(netns_path: str) -> list[InterfaceStats]:
    """Counters of all interfaces of a network namespace. Blocking."""
    raise NotImplementedError
