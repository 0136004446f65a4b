"""Limits hold in each cgroup that a container is in, whatever systemd does to its scope."""

import subprocess

import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri
from tests.e2e.test_e2e_pods import pod
from tests.support import cgroups

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]

MIB = 1 << 20
FILES = {
    "memory": ("memory.max", "memory.limit_in_bytes"),
    "swap": ("memory.swap.max",),
    "cpu": ("cpu.max", "cpu.cfs_quota_us"),
    "pids": ("pids.max",),
}


def held(container_id: str) -> dict[str, set[str]]:
    """The values of each limit, in the container's cgroup and in crun's below a scope."""
    found = {
        kind: {path.read_text().split()[0] for path in cgroups.files(container_id, *names, *below(names))}
        for kind, names in FILES.items()
    }
    return {kind: values for kind, values in found.items() if values}


def below(names: tuple[str, ...]) -> list[str]:
    return [f"container/{name}" for name in names]


def expected(found: dict[str, set[str]], memory: int, cpu: int) -> dict[str, set[str]]:
    all_of = {"memory": {str(memory)}, "swap": {"0"}, "cpu": {str(cpu)}, "pids": {"77"}}
    if "swap" not in found:
        del all_of["swap"]  # there is no file of this name on cgroup v1
    return all_of


def disturb() -> None:
    """Have systemd write its scopes' files again."""
    if cgroups.SYSTEMD:
        subprocess.run(["systemctl", "daemon-reload"], check=True, timeout=60)


async def update(cri: Cri, container_id: str, wanted: cri_pb.LinuxContainerResources) -> None:
    request = cri_pb.UpdateContainerResourcesRequest(container_id=container_id, linux=wanted)
    await cri.call(cri.runtime.UpdateContainerResources, request)


@pytest.mark.parametrize("handler", ["crun", "runc"])
async def test_limits_hold_from_the_start_through_updates_and_reloads(
    cri: Cri, busybox: str, handler: str
) -> None:
    resources = cri_pb.LinuxContainerResources(
        cpu_period=100_000,
        cpu_quota=50_000,
        cpu_shares=512,
        memory_limit_in_bytes=64 * MIB,
        unified={"pids.max": "77"},
    )
    linux = cri_pb.LinuxContainerConfig(resources=resources)
    _, container_id = await pod(
        cri, f"held-{handler}", busybox, ["sleep", "1000"], handler=handler, linux=linux
    )

    def holds(memory: int, cpu: int) -> None:
        found = held(container_id)
        assert found == expected(found, memory, cpu)

    holds(64 * MIB, 50_000)
    disturb()
    holds(64 * MIB, 50_000)
    more = cri_pb.LinuxContainerResources(memory_limit_in_bytes=128 * MIB, cpu_quota=70_000, cpu_shares=1024)
    await update(cri, container_id, more)
    holds(128 * MIB, 70_000)
    disturb()
    holds(128 * MIB, 70_000)
    await update(cri, container_id, cri_pb.LinuxContainerResources(cpu_quota=-1))
    for _ in range(2):
        found = held(container_id)
        assert found["cpu"] <= {"max", "-1"}
        assert found["memory"] == {str(128 * MIB)}
        disturb()
