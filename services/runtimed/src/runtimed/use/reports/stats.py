"""Use of the machine by containers and sandboxes."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import anyio.to_thread

from common.api.cri.v1 import api_pb2 as cri
from common.clock import now_ns
from runtimed import convert, selection
from runtimed.oci.cgroups import CgroupPlan
from runtimed.ports import SnapshotUse
from runtimed.readings.files import PressureStats
from runtimed.readings.usage import CgroupStats, read_stats
from runtimed.record import ContainerRecord, SandboxRecord
from runtimed.use.parts import Parts
from runtimed.use.reports.podview import network_of, pod_plan, read_links
from runtimed.use.reports.written import Written
from runtimed.use.together import together

if TYPE_CHECKING:
    from runtimed.network.netns import InterfaceStats

NS_PER_S = 1_000_000_000
MIN_RATE_NS = NS_PER_S // 2
"""Two readings closer than this make no rate worth telling."""


class _Reading(NamedTuple):
    """A container's message, and what has no place in it."""

    stats: cri.ContainerStats
    process_count: int


class Stats:
    """Readings; all containers of a call are read in one go, in a thread."""

    def __init__(self, parts: Parts, written: Written) -> None:
        self._parts = parts
        self._written = written
        self._last: dict[str, tuple[int, int, int]] = {}
        """Time, CPU use and rate at the last reading, by container or sandbox."""

    async def container(self, name: str) -> cri.ContainerStats:
        """One container."""
        record = selection.find(self._parts.containers.store, "container", name)
        return (await self._read([record]))[0].stats

    async def containers(self, wanted: cri.ContainerStatsFilter) -> list[cri.ContainerStats]:
        """The containers that fit, as CRI sees them; those that do not run carry no CPU and memory."""
        found = selection.fitting(self._parts.for_cri(self._parts.containers.store), wanted)
        return [each.stats for each in await self._read(found)]

    async def running(self) -> list[cri.ContainerStats]:
        """All containers that run, whoever made them."""
        found = [r for r in selection.listed(self._parts.containers.store) if r.state.has_init]
        return [each.stats for each in await self._read(found)]

    async def sandbox(self, name: str) -> cri.PodSandboxStats:
        """One sandbox."""
        record = selection.find(self._parts.sandboxes.store, "sandbox", name)
        return (await self._sandboxes([record]))[0]

    async def sandboxes(self, wanted: cri.PodSandboxStatsFilter) -> list[cri.PodSandboxStats]:
        """The sandboxes that fit, as CRI sees them."""
        found = selection.by_id(self._parts.for_cri(self._parts.sandboxes.store), wanted.id)
        return await self._sandboxes(selection.with_labels(found, wanted.label_selector))

    async def _read(self, records: Sequence[ContainerRecord]) -> list[_Reading]:
        plans = [r.cgroup if r.state.has_init else None for r in records]
        readings, (mountpoint, use) = await together(
            partial(anyio.to_thread.run_sync, _read_all, plans),
            partial(self._written.usage, [r.id for r in records]),
        )
        return [
            _Reading(
                self._container(record, reading, mountpoint, use.get(record.id)),
                reading.process_count if reading else 0,
            )
            for record, reading in zip(records, readings, strict=True)
        ]

    def _container(
        self, record: ContainerRecord, reading: CgroupStats | None, mountpoint: str, use: SnapshotUse | None
    ) -> cri.ContainerStats:
        stats = cri.ContainerStats()
        stats.attributes.id = record.id
        stats.attributes.metadata.CopyFrom(convert.container_metadata(record))
        stats.attributes.labels.update(record.labels)
        stats.attributes.annotations.update(record.annotations)
        layer = stats.writable_layer
        # kubelets dereference these, so they are there even when nothing is known
        layer.timestamp = use.at_ns if use else now_ns()
        if mountpoint:  # of an empty one they fail, and tell nothing of the whole node
            layer.fs_id.mountpoint = mountpoint
        layer.used_bytes.value = use.used_bytes if use else 0
        layer.inodes_used.value = use.used_inodes if use else 0
        if reading is None:
            return stats
        self._cpu(record.id, stats.cpu, reading)
        _memory(stats.memory, reading)
        stats.swap.timestamp = reading.timestamp_ns
        stats.swap.swap_usage_bytes.value = reading.swap_usage_bytes
        if reading.swap_available_bytes is not None:
            stats.swap.swap_available_bytes.value = reading.swap_available_bytes
        _io(stats.io, reading)
        return stats

    def _cpu(self, key: str, cpu: cri.CpuUsage, reading: CgroupStats) -> None:
        cpu.timestamp = reading.timestamp_ns
        cpu.usage_core_nano_seconds.value = reading.cpu_usage_ns
        at_ns, used_ns, rate = self._last.get(key, (0, 0, -1))
        passed_ns = reading.timestamp_ns - at_ns
        if not at_ns or passed_ns >= MIN_RATE_NS or passed_ns < 0:  # the clock was set back
            if passed_ns > 0 and at_ns:
                rate = max(0, reading.cpu_usage_ns - used_ns) * NS_PER_S // passed_ns
            self._last[key] = (reading.timestamp_ns, reading.cpu_usage_ns, rate)
        if rate >= 0:
            cpu.usage_nano_cores.value = rate
        if reading.cpu_psi:
            _psi(cpu.psi, reading.cpu_psi)

    async def _sandboxes(self, records: Sequence[SandboxRecord]) -> list[cri.PodSandboxStats]:
        ids = {r.id for r in records}
        containers = [c for c in selection.listed(self._parts.containers.store) if c.sandbox_id in ids]
        plans = [pod_plan(self._parts, r) for r in records]
        names = [network_of(r) for r in records]
        each, pods, links = await together(
            partial(self._read, containers),
            partial(anyio.to_thread.run_sync, _read_all, plans),
            partial(anyio.to_thread.run_sync, read_links, names),
        )
        return [
            self._sandbox(
                record,
                pod,
                interfaces,
                [found for found, c in zip(each, containers, strict=True) if c.sandbox_id == record.id],
            )
            for record, pod, interfaces in zip(records, pods, links, strict=True)
        ]

    def _sandbox(
        self,
        record: SandboxRecord,
        pod: CgroupStats | None,
        interfaces: "Sequence[InterfaceStats]",
        containers: "list[_Reading]",
    ) -> cri.PodSandboxStats:
        stats = cri.PodSandboxStats()
        stats.attributes.id = record.id
        stats.attributes.metadata.CopyFrom(convert.sandbox_metadata(record))
        stats.attributes.labels.update(record.labels)
        stats.attributes.annotations.update(record.annotations)
        linux = stats.linux
        linux.containers.extend(each.stats for each in containers)
        if pod is not None:
            self._cpu(record.id, linux.cpu, pod)
            _memory(linux.memory, pod)
            linux.process.timestamp = pod.timestamp_ns
            linux.process.process_count.value = pod.process_count
            _io(linux.io, pod)
        else:
            _sum(linux, containers)
        _network(linux.network, interfaces)
        return stats

    def forget_gone(self) -> None:
        """Drop the last readings of what was removed."""
        known = {r.id for r in self._parts.containers.store.all()} | {
            r.id for r in self._parts.sandboxes.store.all()
        }
        for key in self._last.keys() - known:
            del self._last[key]
        self._written.keep(known)


def _read_all(plans: Iterable[CgroupPlan | None]) -> list[CgroupStats | None]:
    return [read_stats(plan) if plan else None for plan in plans]


def _memory(memory: cri.MemoryUsage, reading: CgroupStats) -> None:
    memory.timestamp = reading.timestamp_ns
    memory.working_set_bytes.value = reading.working_set_bytes
    memory.usage_bytes.value = reading.usage_bytes
    memory.rss_bytes.value = reading.rss_bytes
    memory.page_faults.value = reading.page_faults
    memory.major_page_faults.value = reading.major_page_faults
    if reading.available_bytes is not None:
        memory.available_bytes.value = reading.available_bytes
    if reading.memory_psi:
        _psi(memory.psi, reading.memory_psi)


def _io(usage: cri.IoUsage, reading: CgroupStats) -> None:
    usage.timestamp = reading.timestamp_ns
    if reading.io_psi:
        _psi(usage.psi, reading.io_psi)


def _psi(psi: cri.PsiStats, reading: PressureStats) -> None:
    for target, found in ((psi.Full, reading.full), (psi.Some, reading.some)):
        target.Total = found.total_us * 1000
        target.Avg10, target.Avg60, target.Avg300 = found.avg10, found.avg60, found.avg300


def _sum(linux: cri.LinuxPodSandboxStats, containers: Iterable[_Reading]) -> None:
    """Without a cgroup of its own, a sandbox uses what its containers use."""
    at_ns = now_ns()
    linux.cpu.timestamp = linux.memory.timestamp = at_ns
    running = [each.stats for each in containers if each.stats.HasField("cpu")]
    linux.cpu.usage_core_nano_seconds.value = sum(c.cpu.usage_core_nano_seconds.value for c in running)
    linux.cpu.usage_nano_cores.value = sum(c.cpu.usage_nano_cores.value for c in running)
    for name in ("working_set_bytes", "usage_bytes", "rss_bytes", "page_faults", "major_page_faults"):
        getattr(linux.memory, name).value = sum(getattr(c.memory, name).value for c in running)
    linux.process.timestamp = at_ns
    linux.process.process_count.value = sum(each.process_count for each in containers)


def _network(network: cri.NetworkUsage, interfaces: "Sequence[InterfaceStats]") -> None:
    network.timestamp = now_ns()
    for link in interfaces:
        if link.name == "lo":
            continue
        usage = cri.NetworkInterfaceUsage(name=link.name)
        usage.rx_bytes.value, usage.rx_errors.value = link.rx_bytes, link.rx_errors
        usage.tx_bytes.value, usage.tx_errors.value = link.tx_bytes, link.tx_errors
        if link.name == "eth0":
            network.default_interface.CopyFrom(usage)
        network.interfaces.append(usage)
