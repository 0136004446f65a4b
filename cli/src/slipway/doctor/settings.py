"""What a service of a node is told by its files, as `slipway-node` gives them to it."""

import tomllib
from pathlib import Path
from typing import Any

from common.places import CONTAINERS


def settings(known: dict[str, Any], daemon: str) -> dict[str, Any]:
    """The node's file for it and then the operator's, which wins; nothing of what cannot be read.

    Args:
        known: node.json.
        daemon: the service.
    """
    found: dict[str, Any] = {}
    places = [f"{known['run_dir']}/settings"] if known.get("run_dir") else []
    if known.get("settings_dir") and known.get("supervisor") != CONTAINERS:
        places.append(str(known["settings_dir"]))
    for place in places:
        try:
            found |= tomllib.loads(Path(place, f"{daemon}.toml").read_text())
        except (OSError, ValueError):
            continue  # the service says what is wrong with it
    return found


def cni_dir(known: dict[str, Any]) -> str:
    """Where the node has its networks."""
    given = settings(known, "runtimed").get("cni_conf_dir")
    return str(given or known.get("cni_dir", "/etc/cni/net.d"))
