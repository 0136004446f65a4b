"""What CNI's own bridge plugin was told to make goes again: addresses, links and rules of the node's."""

import os
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.errors import SlipwayError
from devtools import bridge
from services.runtimed.tests.daemons import Daemons, Pods, kubelet, running_daemons

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.root,
    pytest.mark.integration,
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("iptables"), reason="needs root and iptables"),
]
PLUGINS = Path("/usr/lib/cni")
SUBNET = "10.251.9"
BRIDGE = """#!/bin/sh
if [ -e {base}/fail/$CNI_COMMAND ]; then
    [ $CNI_COMMAND = DEL ] || {plugins}/bridge >/dev/null
    echo '{{"cniVersion": "0.4.0", "code": 11, "msg": "the agent is away"}}'
    exit 1
fi
exec {plugins}/bridge
"""
"""One that needs an agent: without that it takes nothing back, and what it does is not known to succeed."""


@pytest.fixture(scope="module")
def daemons() -> Iterator[Daemons]:
    name = f"slw{uuid.uuid4().hex[:6]}"
    with running_daemons() as found:
        (found.base / "bin").mkdir()
        (found.base / "fail").mkdir()
        for plugin in ("host-local", "portmap"):
            (found.base / "bin" / plugin).symlink_to(PLUGINS / plugin)
        program = found.base / "bin" / "bridge"
        program.write_text(BRIDGE.format(base=found.base, plugins=PLUGINS))
        program.chmod(0o755)
        bridge.write_conflist(found.base / "cni", name, f"{SUBNET}.0/24", found.base / "leases")
        yield found
        bridge.remove(name)


@pytest.fixture
async def pods(daemons: Daemons) -> AsyncIterator[Pods]:
    async with kubelet(daemons) as found:
        yield found


@contextmanager
def failing(pods: Pods, *verbs: str) -> Iterator[None]:
    paths = [pods.daemons.base / "fail" / verb for verb in verbs]
    for path in paths:
        path.touch()
    yield
    for path in paths:
        path.unlink()


def addresses(pods: Pods, sandbox_id: str) -> list[str]:
    leases = pods.daemons.base.glob(f"leases/*/{SUBNET}.*")
    return [path.name for path in leases if sandbox_id in path.read_text()]


def held(pods: Pods, sandbox_id: str) -> list[str]:
    """What the network of a sandbox has on the node: its addresses, and rules that masquerade it."""
    rules = subprocess.run(["iptables-save", "-t", "nat"], capture_output=True, text=True, check=True).stdout
    return [*addresses(pods, sandbox_id), *[line for line in rules.splitlines() if sandbox_id in line]]


async def test_a_release_that_failed_is_tried_again_in_the_namespace(pods: Pods) -> None:
    sandbox_id = await pods.client.run_sandbox(pods.sandbox_config(network=cri.POD))
    assert len(held(pods, sandbox_id)) > 1
    with failing(pods, "DEL"), pytest.raises(SlipwayError, match="the agent is away"):
        await pods.client.stop_sandbox(sandbox_id)
    await pods.client.stop_sandbox(sandbox_id)
    assert held(pods, sandbox_id) == []


async def test_so_is_that_of_a_failed_set_up(pods: Pods) -> None:
    with failing(pods, "ADD", "DEL"), pytest.raises(SlipwayError, match="the agent is away"):
        await pods.client.run_sandbox(pods.sandbox_config(network=cri.POD))
    [item] = await pods.client.list_sandboxes()
    assert len(held(pods, item.id)) > 1
    await pods.client.remove_sandbox(item.id)
    assert held(pods, item.id) == []
