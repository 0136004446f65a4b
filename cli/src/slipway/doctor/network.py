"""The pods' network: CNI and forwarding."""

import json
from pathlib import Path
from typing import Any

from slipway.doctor.finding import Finding, Level, Machine

PLUGIN_DIRS = ("/opt/cni/bin", "/usr/lib/cni")
_FIX = "Install a network, as your CNI's page says, or put a *.conflist there. Pods on the host's network need none."


def cni(machine: Machine) -> list[Finding]:
    """The first configuration, and whether its plugins are installed."""
    directory = machine.at(machine.cni_dir)
    files = sorted(directory.glob("*.conflist")) if directory.is_dir() else []
    if not files:
        return [
            Finding(
                "CNI",
                Level.WARN,
                f"no *.conflist in {machine.cni_dir}: only pods on the host's network",
                _FIX,
            )
        ]
    plugins = _plugins(files[0])
    if plugins is None:
        return [Finding("CNI", Level.FAIL, f"{files[0].name} is no JSON with plugins", _FIX)]
    found = [Finding("CNI", Level.OK, f"{files[0].name}: {', '.join(plugins)}")]
    for plugin in plugins:
        if not any(machine.at(f"{place}/{plugin}").exists() for place in PLUGIN_DIRS):
            text = f"{plugin} of {files[0].name} is in none of {', '.join(PLUGIN_DIRS)}"
            fix = "`apt-get install containernetworking-plugins` has the usual ones."
            found.append(Finding("CNI plugin", Level.FAIL, text, fix))
    return found


def _plugins(path: Path) -> list[str] | None:
    try:
        document: Any = json.loads(path.read_text())
        return [str(plugin["type"]) for plugin in document["plugins"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forwarding(machine: Machine) -> list[Finding]:
    found = []
    for family, path in (("IPv4", "net/ipv4/ip_forward"), ("IPv6", "net/ipv6/conf/all/forwarding")):
        value = machine.read(f"/proc/sys/{path}")
        if value == "0":
            level = Level.WARN if family == "IPv4" else Level.NOTE
            fix = f"sysctl -w {path.replace('/', '.')}=1"
            found.append(
                Finding(f"{family} forwarding", level, "off: pods of CNI reach this node alone", fix)
            )
        elif value:
            found.append(Finding(f"{family} forwarding", Level.OK, "on"))
    return found


CHECKS = (cni, forwarding)
