"""Pods beside the node's cgroup driver: those of the other one, and those of before it was changed."""

import shutil
import uuid
from collections.abc import Iterator

import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError
from services.runtimed.tests.daemons import Pods, needs
from tests.support import cgroups

pytestmark = needs("crun")


@pytest.fixture
def parent() -> Iterator[str]:
    name = cgroups.parent("slipway", f"driver{uuid.uuid4().hex[:8]}")
    yield name
    if not cgroups.SYSTEMD:  # which removes its own
        for path in (*cgroups.ROOT.glob(f"*{name}"), *cgroups.ROOT.glob(name[1:])):
            path.rmdir()


async def test_a_pod_of_the_other_cgroup_driver_is_refused_before_it_has_anything(pods: Pods) -> None:
    config = pods.sandbox_config()
    config.linux.cgroup_parent = "/slipway/other" if cgroups.SYSTEMD else "slipway-other.slice"
    with pytest.raises(InvalidArgumentError, match="cgroup_parent"):
        await pods.client.run_sandbox(config)
    assert not await pods.client.list_sandboxes()


async def test_pods_of_before_a_change_of_the_driver_start_and_hide_no_others(
    parent: str, pods: Pods
) -> None:
    config = pods.sandbox_config()
    config.linux.cgroup_parent = parent
    sandbox_id = await pods.client.run_sandbox(config)
    wanted = pods.container_config("sleep", "1000")
    container_id = await pods.client.create_container(sandbox_id, wanted, config, pods.image())
    driver = "cgroupfs" if cgroups.SYSTEMD else "systemd"
    try:
        pods.daemons.runtimed["cgroup_driver"] = driver
        pods.daemons.kill("runtimed")
        pods.daemons.start("runtimed")
        await pods.client.start_container(container_id)
        stats = await pods.client.stub.ListPodSandboxStats(cri.ListPodSandboxStatsRequest())
        assert [item.attributes.id for item in stats.stats] == [sandbox_id]
        metrics = await pods.client.stub.ListPodSandboxMetrics(cri.ListPodSandboxMetricsRequest())
        assert [pod.container_metrics[0].container_id for pod in metrics.pod_metrics] == [container_id]
        await pods.client.remove_sandbox(sandbox_id)
    finally:
        del pods.daemons.runtimed["cgroup_driver"]
        pods.daemons.kill("runtimed")
        pods.daemons.start("runtimed")


@pytest.mark.parametrize("handler", ["crun", "runc"])
async def test_a_container_without_a_limit_of_processes_has_none_of_systemds(
    pods: Pods, handler: str
) -> None:
    if not shutil.which(handler):
        pytest.skip(f"needs {handler}")
    config = pods.sandbox_config()
    sandbox_id = await pods.client.run_sandbox(config, handler)
    wanted = pods.container_config("sleep", "1000")
    container_id = await pods.client.create_container(sandbox_id, wanted, config, pods.image())
    await pods.client.start_container(container_id)
    limits = cgroups.files(container_id, "pids.max", "container/pids.max")
    assert limits
    assert {path.read_text().strip() for path in limits} == {"max"}
