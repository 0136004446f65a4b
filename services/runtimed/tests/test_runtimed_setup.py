"""Set-ups that fail, that are cut off and that cannot be undone; with a CNI plugin that does as told."""

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.errors import DeadlineExceededError, SlipwayError, UnavailableError
from services.runtimed.tests.daemons import Daemons, Pods, kubelet, needs, running_daemons
from tests.support.eventually import until

pytestmark = needs("crun")
PLUGIN = """#!/bin/sh
cat >/dev/null
echo "$CNI_COMMAND $CNI_CONTAINERID" >>{base}/calls
while [ -e {base}/hold-$CNI_COMMAND ]; do sleep 0.05; done
if [ -e {base}/fail-$CNI_COMMAND ]; then
  echo '{{"cniVersion":"0.4.0","code":100,"msg":"told to fail"}}'
  exit 1
fi
if [ -e {base}/answer-$CNI_COMMAND ]; then
  cat {base}/answer-$CNI_COMMAND
  exit 0
fi
case $CNI_COMMAND in
VERSION) echo '{{"cniVersion":"0.4.0","supportedVersions":["0.4.0"]}}' ;;
ADD) echo '{{"cniVersion":"0.4.0","interfaces":[{{"name":"eth0","sandbox":"x"}}],"ips":[{{"version":"4","address":"10.9.8.7/24"}}]}}' ;;
esac
"""


@pytest.fixture(scope="module")
def daemons() -> Iterator[Daemons]:
    with running_daemons() as found:
        found.runtimed["reconcile_every_s"] = "0.2"  # from its second start on
        plugin = found.programs / "obedient"
        plugin.write_text(PLUGIN.format(base=found.base))
        plugin.chmod(0o755)
        conf = {"cniVersion": "0.4.0", "name": "test", "plugins": [{"type": "obedient"}]}
        (found.base / "cni" / "10-test.conflist").write_text(json.dumps(conf))
        yield found


@pytest.fixture
async def pods(daemons: Daemons) -> AsyncIterator[Pods]:
    (daemons.base / "calls").write_text("")
    async with kubelet(daemons) as found:
        yield found
        for order in daemons.base.glob("*-???"):
            order.unlink()


def calls(pods: Pods) -> list[str]:
    return [line.split()[0] for line in (pods.daemons.base / "calls").read_text().splitlines()]


def order(pods: Pods, what: str) -> Path:
    path = pods.daemons.base / what
    path.touch()
    return path


async def test_a_pod_has_the_address_that_its_network_gave(pods: Pods) -> None:
    sandbox_id = await pods.client.run_sandbox(pods.sandbox_config(network=cri.POD))
    assert (await pods.client.sandbox_status(sandbox_id)).status.network.ip == "10.9.8.7"
    await pods.client.stop_sandbox(sandbox_id)
    assert calls(pods) == ["ADD", "DEL"]
    # by now another pod may have it
    assert not (await pods.client.sandbox_status(sandbox_id)).status.network.ip


async def test_a_container_that_cannot_be_ended_holds_no_network_back(pods: Pods) -> None:
    pods.daemons.kill("runtimed")
    pods.daemons.runtimed["kill_wait_s"] = "1"
    pods.daemons.start("runtimed")
    config = pods.sandbox_config(network=cri.POD)
    sandbox_id = await pods.client.run_sandbox(config)
    wanted = pods.container_config("sleep", "1000")
    container_id = await pods.client.create_container(sandbox_id, wanted, config, pods.image())
    await pods.client.start_container(container_id)
    shim = Path((await pods.facts(container_id))["shim"]).parent
    keeper = int((shim / "pid").read_text().split()[0])
    children = Path(f"/proc/{keeper}/task/{keeper}/children")
    os.kill(keeper, signal.SIGSTOP)  # it does not tell of the end, so it is not known
    told = [keeper, *map(int, children.read_text().split())]
    for pid in told[1:]:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineExceededError, match="lives on after SIGKILL"):
            await pods.client.stop_sandbox(sandbox_id)
        assert calls(pods) == ["ADD", "DEL"]
        assert (pods.daemons.base / "run/runtimed/sandboxes" / sandbox_id / "ns/net").exists()
    finally:
        for pid in told:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        del pods.daemons.runtimed["kill_wait_s"]
    await pods.client.stop_sandbox(sandbox_id)
    assert calls(pods) == ["ADD", "DEL"]
    assert (await pods.status(container_id)).exit_code == 137


async def test_a_failed_network_is_undone_and_leaves_nothing(pods: Pods) -> None:
    order(pods, "fail-ADD")
    with pytest.raises(SlipwayError, match="told to fail"):
        await pods.client.run_sandbox(pods.sandbox_config(network=cri.POD))
    assert calls(pods) == ["ADD", "DEL"]
    assert not await pods.client.list_sandboxes()


async def test_a_network_that_answers_nonsense_is_undone_and_leaves_nothing(pods: Pods) -> None:
    order(pods, "answer-ADD").write_text('{"ips": [{"address": 5}]}')
    with pytest.raises(
        UnavailableError, match="cni plugin 'obedient': ADD answered no result: Expected `str`"
    ):
        await pods.client.run_sandbox(pods.sandbox_config(network=cri.POD))
    assert calls(pods) == ["ADD", "DEL"]
    assert not await pods.client.list_sandboxes()
    assert not list((pods.daemons.base / "data" / "runtimed" / "cni").glob("*"))


@pytest.mark.parametrize(
    ("asked", "held"),
    [
        ({}, "0\n0\t2147483647\n"),
        ({"net/ipv4/ip_unprivileged_port_start": "1024"}, "1024\n0\t2147483647\n"),
    ],
    ids=["nothing", "root-alone"],
)
async def test_all_users_of_a_pod_may_ping_and_listen_on_low_ports_unless_it_says_otherwise(
    pods: Pods, asked: dict[str, str], held: str
) -> None:
    config = pods.sandbox_config(network=cri.POD)
    config.linux.sysctls.update(asked)
    sandbox_id = await pods.client.run_sandbox(config)
    wanted = pods.container_config("sleep", "1000")
    container_id = await pods.client.create_container(sandbox_id, wanted, config, pods.image())
    await pods.client.start_container(container_id)
    files = [f"/proc/sys/net/ipv4/{name}" for name in ("ip_unprivileged_port_start", "ping_group_range")]
    assert (await pods.client.exec_sync(container_id, ["cat", *files])).stdout.decode() == held


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"interfaces": [{"name": "eth0", "sandbox": "x"}]},
        {"interfaces": [{"name": "br0"}], "ips": [{"address": "10.9.8.7/24", "interface": 0}]},
    ],
)
async def test_a_network_that_gives_no_address_is_undone_and_leaves_nothing(
    pods: Pods, answer: dict[str, object]
) -> None:
    order(pods, "answer-ADD").write_text(json.dumps({"cniVersion": "0.4.0", **answer}))
    with pytest.raises(UnavailableError, match="cni network 'test' gave the pod no address"):
        await pods.client.run_sandbox(pods.sandbox_config(network=cri.POD))
    assert calls(pods) == ["ADD", "DEL"]
    assert not await pods.client.list_sandboxes()
    assert not list((pods.daemons.base / "data" / "runtimed" / "cni").glob("*"))


async def test_a_sandbox_whose_record_cannot_be_written_leaves_nothing(pods: Pods) -> None:
    pods.daemons.redis.kill()
    try:
        with pytest.raises(UnavailableError, match="Redis"):
            await pods.client.run_sandbox(pods.sandbox_config(network=cri.POD))
        assert not list((pods.daemons.base / "run" / "runtimed" / "sandboxes").iterdir())
        assert calls(pods) == []
    finally:
        pods.daemons.redis.start()
    assert not await pods.client.list_sandboxes()


async def test_what_cannot_be_undone_stays_listed_until_it_can(pods: Pods) -> None:
    orders = [order(pods, "fail-ADD"), order(pods, "fail-DEL")]
    config = pods.sandbox_config(network=cri.POD)
    with pytest.raises(SlipwayError, match="told to fail"):
        await pods.client.run_sandbox(config)
    [item] = await pods.client.list_sandboxes()
    assert item.state == cri.SANDBOX_NOTREADY
    [told] = (await pods.client.overview()).pods
    assert "told to fail" in told.error
    with pytest.raises(SlipwayError, match="network"):
        await pods.client.stop_sandbox(item.id)
    for path in orders:
        path.unlink()
    assert await pods.client.run_sandbox(config) != item.id
    assert [i.state for i in await pods.client.list_sandboxes()] == [cri.SANDBOX_READY]


async def test_a_caller_that_gives_up_finds_the_same_sandbox_later(pods: Pods) -> None:
    hold = order(pods, "hold-ADD")
    config = pods.sandbox_config(network=cri.POD)
    with pytest.raises(SlipwayError):
        request = cri.RunPodSandboxRequest(config=config)
        await pods.client.stub.RunPodSandbox(request, timeout=0.5)
    assert not await pods.client.list_sandboxes()
    hold.unlink()
    sandbox_id = await pods.client.run_sandbox(config)
    assert [i.id for i in await pods.client.list_sandboxes()] == [sandbox_id]
    assert calls(pods) == ["ADD"]


async def cut_off(pods: Pods, config: cri.PodSandboxConfig) -> str:
    """Kill runtimed while a network plugin is asked for a sandbox; returns its id."""
    async with anyio.create_task_group() as group:

        async def first_try() -> None:
            with pytest.raises(SlipwayError):
                await pods.client.run_sandbox(config)

        group.start_soon(first_try)
        await until(lambda: "ADD" in calls(pods), "the plugin to be asked")
        pods.daemons.kill("runtimed")
    return (pods.daemons.base / "calls").read_text().split()[1]


async def test_a_set_up_that_a_crash_cut_off_is_finished_with_the_same_id(pods: Pods) -> None:
    hold = order(pods, "hold-ADD")
    config = pods.sandbox_config(network=cri.POD)
    sandbox_id = await cut_off(pods, config)
    hold.unlink()
    pods.daemons.start("runtimed")
    assert await pods.client.run_sandbox(config) == sandbox_id
    assert (await pods.client.sandbox_status(sandbox_id)).status.network.ip == "10.9.8.7"


async def test_one_that_hangs_is_waited_for_by_no_other_repair(pods: Pods) -> None:
    agent_id = await pods.client.run_sandbox(pods.sandbox_config())
    hold = order(pods, "hold-ADD")
    config = pods.sandbox_config(network=cri.POD)
    sandbox_id = await cut_off(pods, config)
    (pods.daemons.base / "boot_id").write_text("second\n")
    pods.daemons.start("runtimed")
    await pods.reconciled()
    assert (await pods.client.sandbox_status(agent_id)).status.state == cri.SANDBOX_NOTREADY
    await until(lambda: calls(pods) == ["ADD", "DEL", "ADD"], "the plugin to be asked again")
    await pods.reconciled()
    assert calls(pods) == ["ADD", "DEL", "ADD"]  # no round begins it a second time
    hold.unlink()
    assert await pods.client.run_sandbox(config) == sandbox_id


async def test_a_release_that_failed_is_tried_again_by_the_next_stop(pods: Pods) -> None:
    sandbox_id = await pods.client.run_sandbox(pods.sandbox_config(network=cri.POD))
    fail = order(pods, "fail-DEL")
    with pytest.raises(SlipwayError, match="network"):
        await pods.client.stop_sandbox(sandbox_id)
    assert (await pods.client.sandbox_status(sandbox_id)).status.state == cri.SANDBOX_NOTREADY
    fail.unlink()
    await pods.client.stop_sandbox(sandbox_id)
    assert calls(pods) == ["ADD", "DEL", "DEL"]


async def test_the_address_of_a_stopped_sandbox_is_told_no_more(pods: Pods) -> None:
    """It may be another pod's by now, and a kubelet takes it from an event of any state."""
    sandbox_id = await pods.client.run_sandbox(pods.sandbox_config(network=cri.POD))
    stream = pods.client.stub.GetContainerEvents(cri.GetEventsRequest())
    await stream.initial_metadata()
    await pods.client.stop_sandbox(sandbox_id)
    event = await anext(aiter(stream))
    stream.cancel()
    assert event.container_event_type == cri.CONTAINER_STOPPED_EVENT
    status = (await pods.client.sandbox_status(sandbox_id)).status
    for told in (event.pod_sandbox_status, status):
        assert (told.id, told.state) == (sandbox_id, cri.SANDBOX_NOTREADY)
        assert not told.network.ip


async def test_a_network_whose_plugin_reports_trouble_is_not_ready(pods: Pods) -> None:
    base = pods.daemons.base
    newer, trouble = base / "cni" / "05-newer.conflist", base / "fail-STATUS"

    async def network() -> tuple[bool, str]:
        conditions = (await pods.client.status()).status.conditions
        return next((c.status, c.message) for c in conditions if c.type == "NetworkReady")

    conf = {"cniVersion": "1.1.0", "name": "newer", "plugins": [{"type": "obedient"}]}
    try:
        trouble.touch()
        newer.write_text(json.dumps(conf))
        ready, why = await network()
        assert (ready, "told to fail" in why) == (False, True)
        trouble.unlink()
        newer.write_text(json.dumps(conf, indent=1))
        assert await network() == (True, "")
        before = (base / "calls").read_text().count("STATUS")
        assert await network() == (True, "")
        assert (base / "calls").read_text().count("STATUS") == before
    finally:
        newer.unlink()
        trouble.unlink(missing_ok=True)
