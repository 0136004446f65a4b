"""Limits of a container as properties of its systemd scope."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.api.cri.v1 import api_pb2 as cri
from runtimed.oci import cgroups, limitfiles, scope
from runtimed.use.bundles.bundle import replace_limits

MIB = 1 << 20
PLAN = cgroups.plan("systemd", "kubepods-pod1.slice", "c1", 2)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, {}),
        ({"memory": {"limit": 64 * MIB}}, {"MemoryMax": 64 * MIB}),
        ({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}}, {"MemoryMax": 64 * MIB, "MemorySwapMax": 0}),
        ({"memory": {"limit": MIB, "swap": 3 * MIB}}, {"MemoryMax": MIB, "MemorySwapMax": 2 * MIB}),
        (
            {"memory": {"limit": -1, "swap": -1}},
            dict.fromkeys(["MemoryMax", "MemorySwapMax"], scope.INFINITY),
        ),
        ({"cpu": {"quota": 50_000}}, {"CPUQuotaPerSecUSec": 500_000}),
        (
            {"cpu": {"quota": 10_001, "period": 40_000}},
            {"CPUQuotaPeriodUSec": 40_000, "CPUQuotaPerSecUSec": 260_000},
        ),
        (
            {"cpu": {"quota": 100, "period": 1_000_000}},
            {"CPUQuotaPeriodUSec": 10**6, "CPUQuotaPerSecUSec": 10_000},
        ),
        ({"cpu": {"quota": -1}}, {"CPUQuotaPerSecUSec": scope.INFINITY}),
        (
            {"unified": {"pids.max": "77", "memory.high": "max", "memory.min": "0", "cpu.weight": "50"}},
            {"TasksMax": 77, "MemoryHigh": scope.INFINITY, "MemoryMin": 0},
        ),
        ({"unified": {"pids.max": "0", "memory.high": "64M"}}, {}),
    ],
)
def test_limits_become_properties_in_the_units_of_systemd(
    limits: dict[str, Any], expected: dict[str, int]
) -> None:
    assert scope.properties(limits) == expected


def test_only_a_scope_on_cgroup_v2_has_annotations() -> None:
    limits = {"memory": {"limit": 64 * MIB}, "unified": {"pids.max": "9"}}
    assert scope.annotations(PLAN, limits) == {
        "org.systemd.property.MemoryMax": "uint64 67108864",
        "org.systemd.property.TasksMax": "uint64 9",
    }
    assert scope.annotations(cgroups.plan("systemd", "a.slice", "c1", 1), limits) == {}
    assert scope.annotations(cgroups.plan("cgroupfs", "/a", "c1", 2), limits) == {}


def test_systemds_own_limit_of_processes_holds_for_no_container() -> None:
    unlimited = {"org.systemd.property.TasksMax": f"uint64 {scope.INFINITY}"}
    assert scope.annotations(PLAN, {}) == unlimited
    assert scope.annotations(PLAN, {"unified": {"pids.max": "max"}}) == unlimited
    assert scope.properties({}) == {}  # an update that does not name it leaves it


def test_new_limits_before_the_start_replace_the_annotations_of_the_old(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    old: dict[str, Any] = {"memory": {"limit": MIB}, "cpu": {"quota": 5000}, "devices": ["kept"]}
    kept = {"mine": "yes", "org.systemd.property.CollectMode": "'inactive'"}
    spec = {"annotations": kept | scope.annotations(PLAN, old), "linux": {"resources": old}}
    config.write_text(json.dumps(spec))
    wanted = cri.LinuxContainerResources(memory_limit_in_bytes=2 * MIB, cpu_quota=-1)
    limits = cgroups.resources(wanted, 2)
    replace_limits(str(tmp_path), PLAN, limits, None)
    found = json.loads(config.read_text())
    assert found["linux"]["resources"] == {"devices": ["kept"], **limits}
    assert found["annotations"] == kept | scope.annotations(PLAN, limits)
    assert found["annotations"]["org.systemd.property.MemoryMax"] == f"uint64 {2 * MIB}"
    assert "org.systemd.property.CPUQuotaPerSecUSec" not in found["annotations"]


def test_what_the_files_of_a_scope_have_is_told_to_systemd_again() -> None:
    scope_files = {
        "memory.max": "67108864\n",
        "cpu.max": "50000 100000\n",
        "pids.max": "max\n",
        "cpuset.cpus": "\n",
    }
    directory = Path(PLAN.dirs[""])
    held = {directory / name: text for name, text in scope_files.items()}
    held[directory / cgroups.CRUN_SUBGROUP / "memory.max"] = "max\n"
    assert scope.properties(limitfiles.of_scope(PLAN, held)) == {
        "MemoryMax": 64 * MIB,
        "TasksMax": scope.INFINITY,
        "CPUQuotaPerSecUSec": 500_000,
        "CPUQuotaPeriodUSec": 100_000,
    }
    held = {directory / "cpu.max": "max 100000\n"}
    assert scope.properties(limitfiles.of_scope(PLAN, held))["CPUQuotaPerSecUSec"] == scope.INFINITY
