"""Limits of running containers: a change of them holds as a whole, or not at all."""

import resource
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError, UnknownError
from runtimed.oci import cgroups as plans
from services.runtimed.tests.daemons import Pods, needs
from tests.support import cgroups
from tests.support.eventually import until

pytestmark = needs("crun")
MIB = 1 << 20
PAGE = resource.getpagesize()


@pytest.fixture
def parent() -> Iterator[str]:
    name = cgroups.parent("slipway", f"limits{uuid.uuid4().hex[:8]}")
    yield name
    if not cgroups.SYSTEMD:  # which removes its own
        for path in (*cgroups.ROOT.glob(f"*{name}"), *cgroups.ROOT.glob(name[1:])):
            path.rmdir()


def held(container_id: str) -> dict[Path, str]:
    names = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max", "memory.swap.max"]
    names += ["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.weight", "cpu.max"]
    names += ["cpuset.effective_cpus", "cpuset.cpus.effective", "pids.max"]
    names += [f"container/{name}" for name in names]
    return {path: path.read_text() for path in cgroups.files(container_id, *names)}


def refused(parent: str) -> cri.LinuxContainerResources:
    """What this kernel refuses when other limits are written already."""
    if plans.detect() == 1:  # more than the parent has
        (cgroups.ROOT / f"cpu{cgroups.folder(parent)}" / "cpu.cfs_quota_us").write_text("50000")
        return cri.LinuxContainerResources(cpu_quota=100_000, cpu_period=100_000)
    return cri.LinuxContainerResources(unified={"memory.nothing": "1"})


async def update(pods: Pods, container_id: str, wanted: cri.LinuxContainerResources) -> None:
    request = cri.UpdateContainerResourcesRequest(container_id=container_id, linux=wanted)
    await pods.client.stub.UpdateContainerResources(request)


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("handler", ["crun", "runc"])
async def test_a_change_that_is_refused_leaves_every_limit_as_it_was(
    parent: str, pods: Pods, handler: str, limited: bool
) -> None:
    limits = cri.LinuxContainerResources()
    if limited:
        limits.memory_limit_in_bytes, limits.cpu_shares = 128 * MIB, 700
    container_id = await pods.limited(handler, limits, parent)
    change = refused(parent)
    change.memory_limit_in_bytes = 64 * MIB
    change.cpu_shares = 512
    change.cpuset_cpus = "0"
    before, shown = held(container_id), (await pods.status(container_id)).resources
    with pytest.raises(UnknownError):
        await update(pods, container_id, change)
    assert before
    assert held(container_id) == before
    assert (await pods.status(container_id)).resources == shown


@pytest.mark.parametrize("handler", ["crun", "runc"])
@pytest.mark.parametrize(
    ("field", "value", "quota", "period", "swap"),
    [
        ("cpu_period", 40_000, "20000", 40_000, 64 * MIB),
        ("cpu_quota", 30_000, "30000", 50_000, 64 * MIB),
        ("cpu_quota", -1, "max", 50_000, 64 * MIB),
        ("memory_limit_in_bytes", 96 * MIB, "20000", 50_000, 32 * MIB),
        ("memory_swap_limit_in_bytes", 96 * MIB, "20000", 50_000, 32 * MIB),
    ],
    ids=["period", "quota", "no-quota", "memory", "swap"],
)
async def test_a_change_of_one_limit_leaves_what_is_set_along_with_it(
    pods: Pods, handler: str, field: str, value: int, quota: str, period: int, swap: int
) -> None:
    limits = cri.LinuxContainerResources(cpu_quota=20_000, cpu_period=50_000)
    limits.memory_limit_in_bytes, limits.memory_swap_limit_in_bytes = 64 * MIB, 128 * MIB
    container_id = await pods.limited(handler, limits)
    change = cri.LinuxContainerResources()
    setattr(change, field, value)
    await update(pods, container_id, change)
    memory = change.memory_limit_in_bytes or 64 * MIB
    expected = {
        "cpu.max": f"{quota} {period}",
        "cpu.cfs_quota_us": "-1" if quota == "max" else quota,
        "cpu.cfs_period_us": f"{period}",
        "memory.swap.max": f"{swap}",
        "memory.memsw.limit_in_bytes": f"{memory + swap}",
    }

    def wrong() -> dict[Path, str]:
        found = {path: text.strip() for path, text in held(container_id).items() if path.name in expected}
        assert len(found) > 1
        if quota == "max":  # a period is of no account then, and new when systemd takes the controller away
            found = {path: text.replace("max 100000", expected["cpu.max"]) for path, text in found.items()}
        return {path: text for path, text in found.items() if text != expected[path.name]}

    with suppress(AssertionError):
        await until(lambda: not wrong(), "systemd to write the limits in its own time")
    assert wrong() == {}


@pytest.mark.parametrize("handler", ["crun", "runc"])
async def test_what_may_not_swap_still_may_not_with_another_memory_limit(pods: Pods, handler: str) -> None:
    limits = cri.LinuxContainerResources()
    limits.memory_limit_in_bytes = limits.memory_swap_limit_in_bytes = 64_000_000  # no whole pages
    container_id = await pods.limited(handler, limits)
    for limit in (128_000_000, 32_000_000, 48 * MIB):
        await update(pods, container_id, cri.LinuxContainerResources(memory_limit_in_bytes=limit))
        shown, whole = (await pods.status(container_id)).resources.linux, limit // PAGE * PAGE
        assert (shown.memory_limit_in_bytes, shown.memory_swap_limit_in_bytes) == (whole, whole)
        for name, text in {path.name: text for path, text in held(container_id).items()}.items():
            if name.startswith("memory."):
                assert (name, int(text)) == (name, 0 if name == "memory.swap.max" else whole)
    await update(pods, container_id, cri.LinuxContainerResources(memory_limit_in_bytes=-1))
    shown = (await pods.status(container_id)).resources.linux
    assert (shown.memory_limit_in_bytes, shown.memory_swap_limit_in_bytes) == (-1, -1)


@pytest.mark.parametrize("field", ["cpu_quota", "cpu_period"])
async def test_a_cpu_time_that_no_kernel_takes_is_refused_by_name(pods: Pods, field: str) -> None:
    _, container_id, _ = await pods.running("sleep", "1000")
    change = cri.LinuxContainerResources()
    setattr(change, field, 500)
    with pytest.raises(InvalidArgumentError, match=f"{field} 500"):
        await update(pods, container_id, change)


@pytest.mark.parametrize("handler", ["crun", "runc"])
async def test_a_limit_of_processes_is_taken_away_and_none_is_one(pods: Pods, handler: str) -> None:
    limits = cri.LinuxContainerResources(unified={"pids.max": "max"})
    container_id = await pods.limited(handler, limits)
    for limit in ("50", "max"):
        await update(pods, container_id, cri.LinuxContainerResources(unified={"pids.max": limit}))
        found = {path.read_text().strip() for path in cgroups.files(container_id, "pids.max")}
        assert found == {limit}
        assert (await pods.status(container_id)).resources.linux.unified["pids.max"] == limit
