"""CNI: the node's network configuration, and its plugins run for a sandbox."""

from typing import Any

import msgspec


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox's wish for a network interface."""

    sandbox_id: str
    netns_path: str
    pod_name: str
    pod_namespace: str
    pod_uid: str
    interface: str = "eth0"
    port_mappings: list[dict[str, Any]] = []
    dns: dict[str, list[str]] = {}
    bandwidth: dict[str, int] = {}
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    cgroup_path: str = ""


class CniResult(msgspec.Struct, frozen=True):
    """What the last plugin of a chain answered.

    Attributes:
        ips: the sandbox's addresses without prefix length, IPv4 first.
    """

    ips: list[str]
    interface: str
    raw: dict[str, Any]


class Cni:
    """Runs the plugins of the first valid network configuration in a directory."""

    def __init__(self, conf_dir: str, bin_dirs: list[str], cache_dir: str) -> None:
        self.conf_dir, self.bin_dirs, self.cache_dir = conf_dir, bin_dirs, cache_dir

    def load(self) -> None:
        """Read the directory again if it changed."""
        raise NotImplementedError

    def ready(self) -> tuple[bool, str]:
        """Whether sandboxes can get a network, and why not."""
        raise NotImplementedError

    async def add(self, attachment: Attachment) -> CniResult:
        raise NotImplementedError

    async def delete(self, attachment: Attachment) -> None:
        raise NotImplementedError

    async def check(self, attachment: Attachment) -> None:
        raise NotImplementedError

    async def status(self) -> None:
        raise NotImplementedError
