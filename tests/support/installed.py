"""The node that systemd runs, and one pod on it, for both parts of the test."""

import json
import subprocess
from pathlib import Path
from typing import Any

from common.api.cri.v1 import api_pb2 as cri
from devtools.cri import Cri
from tests.support.pace import patience

RUN_DIR = Path("/run/slipway")
SOCKET = f"{RUN_DIR}/crid.sock"
LOGS = Path("/var/log/pods")
SERVICES = ("snapshotd", "shimd", "imaged", "runtimed", "crid", "opsd")
UNITS = [f"slipway-{name}.service" for name in ("prepare", "redis", "nats", *SERVICES)] + [
    "slipway-crid.socket"
]
TICKS = 'i=0; while true; do i=$((i+1)); echo "tick $i"; sleep 1; done'


def run(*command: str, status: int = 0) -> str:
    """Run a command that ends with this status; what it says."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=patience(120),
    )
    assert done.returncode == status, f"{' '.join(command)}: {done.returncode}: {done.stdout}"
    return done.stdout


def shown(unit: str, name: str) -> str:
    """A property of a unit."""
    return run("systemctl", "show", "--value", "-p", name, unit).strip()


async def start_pod(
    client: Cri, name: str, image: str, command: list[str], **options: Any
) -> tuple[str, str]:
    """A pod with one container of an image that is there; their ids. `options` are those of its namespaces."""
    sandbox = client.sandbox_config(name)
    namespaces = sandbox.linux.security_context.namespace_options
    namespaces.MergeFrom(cri.NamespaceOption(**options))
    config = client.container_config("main", image, command)
    config.linux.security_context.namespace_options.CopyFrom(namespaces)
    sandbox_id = await client.run_sandbox(sandbox)
    container_id = await client.create(sandbox_id, config, sandbox)
    await client.start(container_id)
    return sandbox_id, container_id


async def pid_of(client: Cri, container_id: str) -> int:
    """The first process of a container that runs."""
    request = cri.ContainerStatusRequest(container_id=container_id, verbose=True)
    answer = await client.call(client.runtime.ContainerStatus, request)
    assert answer.status.state == cri.CONTAINER_RUNNING, answer
    return int(json.loads(answer.info["info"])["pid"])
