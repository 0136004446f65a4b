"""CNI network configurations: found, read, checked."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from common.errors import InvalidArgumentError

MAX_CONF_BYTES = 1 << 20
SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
CHECK_SINCE, STATUS_SINCE = (0, 4, 0), (1, 1, 0)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class NetworkConf(msgspec.Struct, frozen=True):
    """A conflist: plugins in the order of ADD."""

    name: str
    version: str
    plugins: list[dict[str, Any]]
    disable_check: bool = False
    path: str = ""

    def at_least(self, version: tuple[int, int, int]) -> bool:
        return tuple(int(part) for part in self.version.split(".")) >= version


def candidates(directory: Path) -> list[Path]:
    """Files that may hold a configuration, in the order of trial."""
    try:
        return sorted(p for p in directory.iterdir() if p.suffix in {".conflist", ".conf", ".json"})
    except OSError:
        return []


def read(path: Path) -> NetworkConf:
    """Read a conflist, or one plugin's configuration as a list of one.

    Raises:
        InvalidArgumentError: the file is no network configuration, with the reason.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONF_BYTES)
        found = json.loads(raw)
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"{path}: {error}") from error
    return parse(found, str(path))


def parse(found: Any, path: str) -> NetworkConf:
    if not isinstance(found, dict):
        raise InvalidArgumentError(f"{path}: is no JSON object")
    plugins = found.get("plugins") if "plugins" in found else [found]
    name, version = found.get("name"), found.get("cniVersion") or "0.2.0"
    if isinstance(found.get("cniVersions"), list):
        version = max([version, *(v for v in found["cniVersions"] if v in SUPPORTED)], key=_order)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgumentError(f"{path}: name {name!r} is no network name")
    if version not in SUPPORTED:
        raise InvalidArgumentError(f"{path}: cniVersion {version!r} is not supported")
    if not isinstance(plugins, list) or not plugins:
        raise InvalidArgumentError(f"{path}: plugins is no list, or empty")
    for plugin in plugins:
        kind = plugin.get("type") if isinstance(plugin, dict) else None
        if not isinstance(kind, str) or not _NAME.fullmatch(kind):
            raise InvalidArgumentError(f"{path}: type {kind!r} is no plugin")
    return NetworkConf(name, version, plugins, found.get("disableCheck") in (True, "true"), path)


def _order(version: str) -> int:
    return SUPPORTED.index(version) if version in SUPPORTED else -1
