"""A reader of one page: types its blocks into a shell, on a machine that seems new.

Runs in mount, network and process namespaces of its own: the node's usual directories are empty ones of this run, docker.io
is a registry on this network's loopback, and whatever a page leaves running ends with its reader. Usage: python -m tests.docs.reader PAGE DIRECTORY
"""

import os
import subprocess
import sys
from pathlib import Path

from devtools.registry import busybox_layer, registry
from tests.docs.pages import ROOT, typed

PLACES = ("/run/slipway", "/var/lib/slipway", "/etc/slipway", "/etc/cni/net.d", "/var/lib/cni")
PRELUDE = 'set -eu\nsudo() { "$@"; }\n'
"""The reader is root already."""


def main() -> None:
    """Read one page to its end; the status is the shell's."""
    page, own = Path(sys.argv[1]), Path(sys.argv[2])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for place in PLACES:
        ours = own / place.replace("/", "_")
        ours.mkdir(parents=True)
        Path(place).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", str(ours), place], check=True)
    with registry(own / "registry") as shop:
        shop.push("library/busybox", [busybox_layer()], {"Env": ["PATH=/bin"], "Cmd": ["sh"]})
        hosts = Path("/etc/slipway/certs.d/docker.io/hosts.toml")
        hosts.parent.mkdir(parents=True)
        hosts.write_text(f'[host."http://{shop.address}"]\ncapabilities = ["pull", "resolve"]\n')
        script = "".join(_typed(block.line, block.text) for block in typed(page))
        done = subprocess.run(["bash", "-c", PRELUDE + script], cwd=ROOT, check=False)
    sys.exit(done.returncode)


def _typed(line: int, text: str) -> str:
    return f"echo '--- line {line}' >&2\n{text}\n"


if __name__ == "__main__":
    os.environ["TERM"] = "dumb"
    main()
