"""What CNI's own bridge plugin was told to make goes again: addresses, links and rules of the node's."""

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from common.api.cri.v1 import api_pb2 as cri
from common.errors import SlipwayError
from common.records import keys
from devtools import bridge
from services.runtimed.tests.daemons import Daemons, Pods, needs, running_daemons
from tests.support.eventually import until

pytestmark = needs("crun", "iptables")
PLUGINS = Path("/usr/lib/cni")
SUBNET = "10.251.9"
BRIDGE = """#!/bin/sh
if [ -e {base}/fail/$CNI_COMMAND ]; then
    [ $CNI_COMMAND = DEL ] || {plugins}/bridge >/dev/null
    echo '{{"cniVersion": "0.4.0", "code": 11, "msg": "the agent is away"}}'
    exit 1
fi
[ $CNI_COMMAND = DEL ] && [ -e {base}/fail/slow ] && sleep 1
exec {plugins}/bridge
"""
"""One that needs an agent: without that it takes nothing back, and what it does is not known to succeed."""


@pytest.fixture(scope="module")
def daemons() -> Iterator[Daemons]:
    name = f"slw{uuid.uuid4().hex[:6]}"
    with running_daemons() as found:
        found.runtimed["reconcile_every_s"] = "0.2"  # from its second start on
        (found.base / "fail").mkdir()
        for plugin in ("host-local", "portmap"):
            (found.programs / plugin).symlink_to(PLUGINS / plugin)
        program = found.programs / "bridge"
        program.write_text(BRIDGE.format(base=found.base, plugins=PLUGINS))
        program.chmod(0o755)
        bridge.write_conflist(found.base / "cni", name, f"{SUBNET}.0/24", found.base / "leases")
        yield found
        bridge.remove(name)


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


async def test_a_release_counts_that_takes_longer_than_other_cleaning_up_may(pods: Pods) -> None:
    sandbox_id = await pods.client.run_sandbox(pods.sandbox_config(network=cri.POD))
    daemons = pods.daemons
    daemons.kill("runtimed")
    daemons.runtimed["cleanup_s"] = "0.5"
    daemons.start("runtimed")
    try:
        with failing(pods, "slow"):
            await pods.client.stop_sandbox(sandbox_id)
    finally:
        daemons.kill("runtimed")
        del daemons.runtimed["cleanup_s"]
        daemons.start("runtimed")
    assert held(pods, sandbox_id) == []


def lose(pods: Pods, sandbox_id: str) -> None:
    """Have runtimed start without a sandbox's record, as after a power cut just behind its set-up."""
    facts = ("testnode", "runtimed", "sandbox")
    pods.daemons.kill("runtimed")
    with Redis.from_url(pods.daemons.redis.url) as redis:
        redis.delete(keys.record_key(*facts, sandbox_id))
        redis.srem(keys.index_key(*facts), sandbox_id)
    shutil.rmtree(pods.daemons.base / "data" / "runtimed" / "sandboxes" / sandbox_id)
    pods.daemons.start("runtimed")


def left(pods: Pods, sandbox_id: str) -> list[str]:
    """What runtimed and the network have of a sandbox."""
    base = pods.daemons.base
    paths = [*base.glob("run/runtimed/sandboxes/*"), *base.glob("data/runtimed/cni/*")]
    return [*held(pods, sandbox_id), *[str(path) for path in paths if sandbox_id in path.name]]


async def none_left(pods: Pods, sandbox_id: str) -> None:
    await until(lambda: not left(pods, sandbox_id), f"nothing to be left of sandbox {sandbox_id}")


async def test_the_network_of_a_sandbox_without_a_record_is_released(pods: Pods) -> None:
    sandbox_id = await pods.client.run_sandbox(pods.sandbox_config(network=cri.POD))
    other_id = await pods.client.run_sandbox(pods.sandbox_config(network=cri.POD))
    before = left(pods, other_id)
    lose(pods, sandbox_id)
    await none_left(pods, sandbox_id)
    assert left(pods, other_id) == before
    told = (pods.daemons.base / "runtimed.log").read_text()
    assert "the network of a sandbox without a record was released" in told


async def test_its_namespaces_wait_for_that(pods: Pods) -> None:
    sandbox_id = await pods.client.run_sandbox(pods.sandbox_config(network=cri.POD))
    before = left(pods, sandbox_id)
    with failing(pods, "DEL"):
        lose(pods, sandbox_id)
        await pods.reconciled()
        assert left(pods, sandbox_id) == before
    await none_left(pods, sandbox_id)


async def test_what_runs_keeps_its_network_though_the_record_of_its_sandbox_is_lost(pods: Pods) -> None:
    config = pods.sandbox_config(network=cri.POD)
    sandbox_id = await pods.client.run_sandbox(config)
    wanted = pods.container_config("sleep", "1000")
    container_id = await pods.client.create_container(sandbox_id, wanted, config, pods.image())
    await pods.client.start_container(container_id)
    before = left(pods, sandbox_id)
    lose(pods, sandbox_id)
    await pods.reconciled()
    assert left(pods, sandbox_id) == before
    await pods.client.remove_container(container_id)
    await none_left(pods, sandbox_id)


async def test_a_network_that_never_worked_is_released_once_its_configuration_is_mended(pods: Pods) -> None:
    [path] = (pods.daemons.base / "cni").iterdir()
    good = path.read_text()
    path.write_text(good.replace("host-local", "no-such-ipam"))
    with pytest.raises(SlipwayError, match="no-such-ipam"):
        await pods.client.run_sandbox(pods.sandbox_config(network=cri.POD))
    [item] = await pods.client.list_sandboxes()
    with pytest.raises(SlipwayError, match=r"not released.*no-such-ipam"):
        await pods.client.remove_sandbox(item.id)
    path.write_text(good)
    await pods.client.remove_sandbox(item.id)
    assert left(pods, item.id) == []
