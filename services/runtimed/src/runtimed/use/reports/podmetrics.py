"""The cAdvisor metrics of all pods, for ListPodSandboxMetrics."""

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import anyio.to_thread

from common.api.cri.v1 import api_pb2 as cri
from common.clock import now_ns
from runtimed import selection
from runtimed.network.netns import InterfaceStats
from runtimed.ports import SnapshotUse
from runtimed.readings import cadvisor, processes
from runtimed.readings.families import BY_NAME, Sample
from runtimed.record import ContainerRecord, SandboxRecord
from runtimed.use.parts import Parts
from runtimed.use.reports.podview import network_of, pod_plan, read_links
from runtimed.use.reports.written import Written

NS_PER_S = 1_000_000_000


class Metrics:
    """Readings of the moment; all pods in one go, in a thread."""

    def __init__(self, parts: Parts, written: Written) -> None:
        self._parts = parts
        self._written = written

    async def pods(self) -> list[cri.PodSandboxMetrics]:
        """Every listed sandbox with its running containers."""
        sandboxes = selection.listed(self._parts.sandboxes.store)
        running = [
            record
            for record in selection.listed(self._parts.containers.store)
            if record.state.has_init and record.cgroup is not None
        ]
        mountpoint, use = await self._written.usage([record.id for record in running])
        return await anyio.to_thread.run_sync(partial(self._read, sandboxes, running, mountpoint, use))

    def _read(
        self,
        sandboxes: Sequence[SandboxRecord],
        containers: Iterable[ContainerRecord],
        mountpoint: str,
        use: dict[str, SnapshotUse],
    ) -> list[cri.PodSandboxMetrics]:
        filesystem = _Filesystem(mountpoint, use)
        found = {record.id: cri.PodSandboxMetrics(pod_sandbox_id=record.id) for record in sandboxes}
        by_id = {record.id: record for record in sandboxes}
        links = read_links([network_of(record) for record in sandboxes])
        for record, interfaces in zip(sandboxes, links, strict=True):
            plan = pod_plan(self._parts, record)
            samples = [*_network(interfaces), *(cadvisor.samples(plan) if plan else ())]
            samples += _times(record.ready_at_ns or record.created_at_ns)
            base = ["", plan.path if plan else "", "", "", record.namespace, record.name]
            found[record.id].metrics.extend(_messages(samples, base))
        for container in containers:
            pod = by_id.get(container.sandbox_id)
            if pod is None or container.cgroup is None:
                continue
            samples = cadvisor.samples(container.cgroup)
            if not samples:
                continue  # it ended meanwhile
            samples += processes.samples(container.cgroup, container.pid)
            samples += filesystem.samples(container.id)
            samples += _times(container.started_at_ns)
            base = [
                container.name,
                container.cgroup.path,
                container.image,
                container.id,
                pod.namespace,
                pod.name,
            ]
            found[pod.id].container_metrics.add(container_id=container.id, metrics=_messages(samples, base))
        return list(found.values())


class _Filesystem:
    """Where containers write. Blocking."""

    def __init__(self, mountpoint: str, use: dict[str, SnapshotUse]) -> None:
        self._use = use
        self._space = os.statvfs(mountpoint) if mountpoint else None
        device = Path(mountpoint).stat().st_dev if mountpoint else 0
        self._device = (cadvisor.device_name(os.major(device), os.minor(device)),)

    def samples(self, container_id: str) -> list[Sample]:
        use, space = self._use.get(container_id), self._space
        if use is None or space is None:
            return []
        return [
            Sample("container_fs_usage_bytes", use.used_bytes, self._device),
            Sample("container_fs_limit_bytes", space.f_blocks * space.f_frsize, self._device),
            Sample("container_fs_inodes_total", space.f_files, self._device),
            Sample("container_fs_inodes_free", space.f_ffree, self._device),
        ]


def _network(interfaces: Iterable[InterfaceStats]) -> list[Sample]:
    found: list[Sample] = []
    for link in interfaces:
        for way, short in (("receive", "rx"), ("transmit", "tx")):
            for name, counter in (
                ("bytes", "bytes"),
                ("errors", "errors"),
                ("packets", "packets"),
                ("packets_dropped", "dropped"),
            ):
                value = getattr(link, f"{short}_{counter}")
                found.append(Sample(f"container_network_{way}_{name}_total", value, (link.name,)))
    return found


def _times(started_at_ns: int) -> list[Sample]:
    return [
        Sample("container_start_time_seconds", started_at_ns // NS_PER_S),
        Sample("container_last_seen", now_ns() // NS_PER_S),
    ]


def _messages(samples: Iterable[Sample], base: list[str]) -> list[cri.Metric]:
    at_ns = now_ns()
    return [
        cri.Metric(
            name=sample.name,
            timestamp=at_ns,
            metric_type=BY_NAME[sample.name].kind,
            label_values=[*base, *sample.labels],
            value=cri.UInt64Value(value=sample.value),
        )
        for sample in samples
    ]
