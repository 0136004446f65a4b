"""A CNI network of a node's own, and taking it away again."""

import json
import subprocess
from pathlib import Path

COMMAND_S = 10


def write_conflist(directory: Path, bridge: str, subnet: str, data: Path, *, masquerade: bool = True) -> None:
    """A bridge with host-local addresses and port mappings, leases kept in `data`."""
    directory.mkdir(parents=True, exist_ok=True)
    plugins = [
        {
            "type": "bridge",
            "bridge": bridge,
            "isGateway": True,
            "ipMasq": masquerade,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": subnet}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(data),
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    document = {"cniVersion": "0.4.0", "name": bridge, "plugins": plugins}
    (directory / f"10-{bridge}.conflist").write_text(json.dumps(document, indent=2))


def remove(bridge: str) -> None:
    """Delete the bridge; nothing happens when there is none."""
    subprocess.run(["ip", "link", "delete", bridge], capture_output=True, check=False, timeout=COMMAND_S)
