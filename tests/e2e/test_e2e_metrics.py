"""Metrics and statistics over CRI, and what a kubelet tells of a pod's resources."""

import json
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri
from tests.e2e.test_e2e_pods import pod
from tests.support import cgroups
from tests.support.eventually import until
from tests.support.node import TestNode
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root]

MAY_BE_MISSING = ("container_blkio_", "container_fs_reads", "container_fs_writes", "container_hugetlb_")
PRESSURE = "container_pressure_"
BASE = ["container", "id", "image", "name", "namespace", "pod"]


def limits() -> cri_pb.LinuxContainerConfig:
    resources = cri_pb.LinuxContainerResources(
        cpu_period=100_000, cpu_quota=50_000, cpu_shares=512, memory_limit_in_bytes=64 << 20
    )
    return cri_pb.LinuxContainerConfig(resources=resources)


async def metrics_of(cri: Cri, sandbox_id: str) -> cri_pb.PodSandboxMetrics:
    answer = await cri.call(cri.runtime.ListPodSandboxMetrics, cri_pb.ListPodSandboxMetricsRequest())
    return next(found for found in answer.pod_metrics if found.pod_sandbox_id == sandbox_id)


async def test_every_described_metric_comes_with_its_labels(cri: Cri, busybox: str, node: TestNode) -> None:
    script = "sleep 1000 & exec sleep 1000"
    sandbox_id, container_id = await pod(
        cri, "metered", busybox, ["sh", "-c", script], host_network=False, linux=limits()
    )
    with anyio.fail_after(patience(20)):  # the shell has forked, and become a sleep
        while len((await cri.exec(container_id, ["pidof", "sleep"])).stdout.split()) < 2:
            pass
    described = await cri.call(cri.runtime.ListMetricDescriptors, cri_pb.ListMetricDescriptorsRequest())
    keys = {found.name: list(found.label_keys) for found in described.descriptors}
    assert len(keys) == len(described.descriptors) >= 56
    assert all(found.help and list(found.label_keys[:6]) == BASE for found in described.descriptors)

    found = await metrics_of(cri, sandbox_id)
    told = [*found.metrics, *(m for each in found.container_metrics for m in each.metrics)]
    assert all(len(metric.label_values) == len(keys[metric.name]) for metric in told)
    optional = MAY_BE_MISSING if has_pressure() else (*MAY_BE_MISSING, PRESSURE)
    missing = keys.keys() - {metric.name for metric in told}
    assert not [name for name in missing if not name.startswith(optional)]

    (container,) = found.container_metrics
    assert container.container_id == container_id
    values = {metric.name: metric.value.value for metric in container.metrics}
    assert values["container_spec_memory_limit_bytes"] == 64 << 20
    assert values["container_spec_cpu_quota"] == 50_000
    assert abs(values["container_spec_cpu_shares"] - 512) < 30  # by way of cpu.weight on cgroup v2
    assert values["container_processes"] == values["container_threads"] == 2
    assert values["container_file_descriptors"] >= 6
    assert values["container_ulimits_soft"] > 0
    labels = dict(zip(BASE, container.metrics[0].label_values, strict=False))
    assert (labels["container"], labels["name"], labels["pod"]) == ("c", container_id, "metered")
    assert labels["id"].removesuffix(".scope").endswith(container_id)
    sent = {
        metric.label_values[-1]: metric.value.value
        for metric in found.metrics
        if metric.name == "container_network_transmit_packets_total"
    }
    assert list(sent) == ["eth0"]


def has_pressure() -> bool:
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


async def test_streamed_metrics_are_those_of_the_list(cri: Cri, busybox: str) -> None:
    ids = {(await pod(cri, f"streamed-{n}", busybox, ["sleep", "1000"]))[0] for n in range(3)}
    streamed = [
        each.pod_sandbox_id
        async for message in cri.runtime.StreamPodSandboxMetrics(cri_pb.StreamPodSandboxMetricsRequest())
        for each in message.pod_sandbox_metrics
    ]
    assert sorted(streamed) == sorted(ids)


async def test_oom_kills_are_counted_while_the_container_lives(cri: Cri, busybox: str) -> None:
    script = "dd if=/dev/zero of=/dev/null bs=200M count=1; sleep 1000 & exec sleep 1000"
    sandbox_id, _ = await pod(cri, "oomed", busybox, ["sh", "-c", script], linux=limits())

    async def counted() -> dict[str, int] | None:
        (container,) = (await metrics_of(cri, sandbox_id)).container_metrics
        values = {metric.name: metric.value.value for metric in container.metrics}
        return values if values["container_oom_events_total"] else None

    values = await until(counted, "the kill to be counted")
    assert values["container_processes"] == 2


async def test_resources_of_a_pod_are_remembered_and_never_refused(cri: Cri, node: TestNode) -> None:
    sandbox = cri.sandbox_config("resized", host_network=True)
    sandbox.linux.overhead.memory_limit_in_bytes = 1 << 20
    sandbox_id = await cri.run_sandbox(sandbox)

    async def shown() -> dict[str, Any]:
        request = cri_pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
        answer = await cri.call(cri.runtime.PodSandboxStatus, request)
        found: dict[str, Any] = json.loads(answer.info["info"])
        return found

    assert (await shown())["overhead"] == {"memory_limit_in_bytes": str(1 << 20)}
    wanted = cri_pb.LinuxContainerResources(cpu_shares=-7, memory_limit_in_bytes=3 << 20)
    request = cri_pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=sandbox_id, resources=wanted)
    await cri.call(cri.runtime.UpdatePodSandboxResources, request)
    info = await shown()
    assert info["resources"] == {"cpu_shares": "-7", "memory_limit_in_bytes": str(3 << 20)}
    assert info["overhead"] == {"memory_limit_in_bytes": str(1 << 20)}
    assert info["state"] == "ready"
    request.pod_sandbox_id = "beef"
    with pytest.raises(grpc.aio.AioRpcError, match="beef") as caught:
        await cri.call(cri.runtime.UpdatePodSandboxResources, request)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_statistics_have_all_that_a_kubelet_dereferences(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("stats")
    sandbox.linux.cgroup_parent = cgroups.parent("slipway", "podstats")
    sandbox_id = await cri.run_sandbox(sandbox)
    config = cri.container_config("c", busybox, ["sh", "-c", "sleep 1000 & exec sleep 1000"])
    config.linux.MergeFrom(limits())
    container_id = await cri.create(sandbox_id, config, sandbox)

    async def container() -> cri_pb.ContainerStats:
        request = cri_pb.ContainerStatsRequest(container_id=container_id)
        return (await cri.call(cri.runtime.ContainerStats, request)).stats

    idle = await container()
    assert idle.writable_layer.HasField("used_bytes")
    assert not idle.HasField("cpu")
    await cri.start(container_id)
    stats = await container()
    assert stats.cpu.timestamp > 0
    for part, names in (
        (stats.cpu, ["usage_core_nano_seconds"]),
        (stats.memory, ["working_set_bytes", "usage_bytes", "rss_bytes", "page_faults", "major_page_faults"]),
        (stats.memory, ["available_bytes"]),
        (stats.writable_layer, ["fs_id", "used_bytes", "inodes_used"]),
        (stats.swap, ["swap_usage_bytes"]),
    ):
        assert set(names) <= {field.name for field, _ in part.ListFields()}
    assert stats.writable_layer.fs_id.mountpoint.startswith(str(node.data_dir))
    assert 0 < stats.memory.working_set_bytes.value <= 64 << 20
    assert stats.io.timestamp > 0

    request = cri_pb.PodSandboxStatsRequest(pod_sandbox_id=sandbox_id)
    whole = (await cri.call(cri.runtime.PodSandboxStats, request)).stats.linux
    assert whole.cpu.usage_core_nano_seconds.value >= stats.cpu.usage_core_nano_seconds.value
    assert whole.process.process_count.value == 2
    assert whole.network.default_interface.name == "eth0"
    assert whole.network.default_interface.HasField("rx_bytes")
    assert [each.attributes.id for each in whole.containers] == [container_id]

    async def rate() -> int:
        return (await container()).cpu.usage_nano_cores.value

    async def has_rate() -> bool:
        return (await container()).cpu.HasField("usage_nano_cores")

    await until(has_rate, "a rate")
    assert await rate() < 10**9
