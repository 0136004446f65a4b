"""Pods of the command: CRI does not see them, so that no kubelet takes them for orphans; the command sees all."""

import json
from pathlib import Path

import pytest

from common.api.cri.v1 import api_pb2 as pb
from devtools.cri import Cri, connect
from devtools.registry import Registry
from tests.support.eventually import eventually
from tests.support.node import TestNode, running_node

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.anyio, pytest.mark.timeout(150)]


async def _listed(cri: Cri) -> dict[str, set[str]]:
    """What each of CRI's lists shows, by names."""
    pods = (await cri.call(cri.runtime.ListPodSandbox, pb.ListPodSandboxRequest())).items
    containers = (await cri.call(cri.runtime.ListContainers, pb.ListContainersRequest())).containers
    usage = (await cri.call(cri.runtime.ListContainerStats, pb.ListContainerStatsRequest())).stats
    pod_usage = (await cri.call(cri.runtime.ListPodSandboxStats, pb.ListPodSandboxStatsRequest())).stats
    return {
        "pods": {one.metadata.name for one in pods},
        "containers": {one.metadata.name for one in containers},
        "container stats": {one.attributes.metadata.name for one in usage},
        "pod stats": {one.attributes.metadata.name for one in pod_usage},
    }


def _names(node: TestNode, *words: str) -> dict[str, str]:
    """Names and origins that a list of the command shows."""
    found = json.loads(node.slipway(*words, "-o", "json").stdout)
    return {one["container"]["metadata"]["name"]: one["origin"] for one in found}


async def test_cri_sees_its_own_and_the_command_all(node: TestNode, cri: Cri, busybox: str) -> None:
    before = await _listed(cri)
    made = node.slipway("run", "-d", "--name", "mine", busybox, "sleep", "1000")
    assert made.returncode == 0, made.stderr
    try:
        await cri.pull(busybox)
        sandbox = cri.sandbox_config("theirs", host_network=True)
        config = cri.container_config("theirs", busybox, ["sleep", "1000"])
        await cri.start(await cri.create(await cri.run_sandbox(sandbox), config, sandbox))
        assert await _listed(cri) == {kind: names | {"theirs"} for kind, names in before.items()}
        status = await cri.status(made.stdout.strip())
        assert status.state == pb.CONTAINER_RUNNING  # who knows the id may ask for it
        ours = _names(node, "ps")
        assert (ours["mine"], ours["theirs"]) == ("command", "cri")
        told = node.slipway("pods").stdout + node.slipway("stats", "--no-stream").stdout
        assert told.count(" mine ") == told.count(" theirs ") == 2
        events = node.slipway("events", "--since", "5m", "--until-now", "--filter", "id=mine").stdout
        assert "container.started" in events
        metrics = await cri.call(cri.runtime.ListPodSandboxMetrics, pb.ListPodSandboxMetricsRequest())
        told_of = {label for pod in metrics.pod_metrics for one in pod.metrics for label in one.label_values}
        assert {"mine", "theirs"} <= told_of
    finally:
        node.slipway("rm", "-f", "mine")


async def test_the_setting_shows_them(shop: Registry, busybox: str, tmp_path: Path) -> None:
    settings = {"SLIPWAY_RUNTIMED_SHOW_COMMAND_PODS": "true"}
    with running_node(tmp_path, settings=settings) as node:
        assert node.slipway("run", "-d", "--rm", "--name", "mine", busybox, "sleep", "1000").returncode == 0
        async with connect(node.socket, node.logs) as cri:
            assert all(names == {"mine"} for names in (await _listed(cri)).values())
            await cri.remove_all()
        eventually(lambda: "mine" not in node.slipway("ps", "-a").stdout, what="it is gone")


async def test_events_of_cri_are_of_its_own_pods(node: TestNode, cri: Cri, busybox: str) -> None:
    await cri.pull(busybox)
    stream = cri.runtime.GetContainerEvents(pb.GetEventsRequest())
    await stream.initial_metadata()
    assert node.slipway("run", "--rm", "--name", "mine", busybox, "true").returncode == 0
    await cri.run_sandbox(cri.sandbox_config("theirs", host_network=True))
    first = await anext(aiter(stream))
    assert first.pod_sandbox_status.metadata.name == "theirs"
    stream.cancel()
