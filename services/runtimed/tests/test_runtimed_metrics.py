"""What the metrics make of the files of a cgroup, and that every value belongs to a described metric."""

from pathlib import Path
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.api.cri.v1 import api_pb2 as cri
from runtimed.oci import cgroups
from runtimed.readings import cadvisor, families, processes, readback
from runtimed.readings.files import tasks
from runtimed.readings.usage import read_stats
from runtimed.use.parts import Parts
from runtimed.use.reports.stats import Stats
from runtimed.use.reports.written import Written

FILES = {
    "cpu.stat": "usage_usec 5500000\nuser_usec 4000000\nsystem_usec 1500000\nnr_periods 7\nnr_throttled 3\n"
    "throttled_usec 2000000\n",
    "cpu.max": "50000 100000\n",
    "cpu.weight": "100\n",
    "memory.stat": "anon 100\nfile 200\ninactive_file 50\nfile_mapped 20\nkernel 30\npgfault 9\npgmajfault 1\n",
    "memory.current": "400\n",
    "memory.peak": "500\n",
    "memory.max": "max\n",
    "memory.low": "0\n",
    "memory.swap.current": "10\n",
    "memory.swap.max": "max\n",
    "memory.events": "low 0\nhigh 0\nmax 4\noom 1\noom_kill 2\n",
    "io.stat": "259:9999 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
    "cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=3000000\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n",
    "hugetlb.2MB.current": "2097152\n",
    "cgroup.procs": "999999999\n",
    "cgroup.threads": "999999999\n999999998\n",
    "pids.max": "max\n",
}


def unified(directory: Path) -> cgroups.CgroupPlan:
    for name, text in FILES.items():
        (directory / name).write_text(text)
    return cgroups.CgroupPlan(driver="cgroupfs", version=2, oci_path="/x", dirs={"": str(directory)})


def test_a_unified_cgroup_tells_all_families(tmp_path: Path) -> None:
    plan = unified(tmp_path)
    found = [*cadvisor.samples(plan), *processes.samples(plan, 999999999)]
    assert all(len(s.labels) == len(families.BY_NAME[s.name].labels) for s in found)
    values = {(s.name.removeprefix("container_"), *s.labels): s.value for s in found}
    expected = {
        ("cpu_usage_seconds_total", "total"): 5,
        ("cpu_cfs_throttled_seconds_total",): 2,
        ("spec_cpu_quota",): 50000,
        ("spec_memory_limit_bytes",): 0,
        ("memory_working_set_bytes",): 350,
        ("memory_failures_total", "pgmajfault", "hierarchy"): 1,
        ("oom_events_total",): 2,
        ("blkio_device_usage_total", "259:9999", "259", "9999", "Write"): 20,
        ("fs_writes_total", "259:9999"): 2,
        ("pressure_cpu_waiting_seconds_total",): 3,
        ("pressure_cpu_stalled_seconds_total",): 1,
        ("hugetlb_usage_bytes", "2MB"): 2097152,
        ("processes",): 1,
        ("threads",): 2,
        ("threads_max",): 0,
    }
    assert {key: values[key] for key in expected} == expected


def test_a_device_without_counters_does_not_spoil_the_line_that_linux_5_15_joins_it_with(
    tmp_path: Path,
) -> None:
    plan = unified(tmp_path)
    lines = "7:7 7:6 259:9999 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0 cost.usage=n/a\n259:9998 \n"
    (tmp_path / "io.stat").write_text(lines)
    found = {s.labels: s.value for s in cadvisor.samples(plan) if s.name == "container_fs_writes_bytes_total"}
    assert found == {("259:9999",): 20}


def test_the_limits_of_a_scope_are_those_of_the_cgroup_that_crun_makes_below_it(tmp_path: Path) -> None:
    plan = msgspec.structs.replace(unified(tmp_path), driver="systemd")
    below = tmp_path / "container"
    below.mkdir()
    for name, text in FILES.items():
        (below / name).write_text(text)
    held = {
        "cpu.max": "50100 100000\n",
        "memory.max": "4096\n",
        "memory.swap.max": "8192\n",
        "pids.max": "9\n",
    }
    for name, text in held.items():
        (below / name).write_text(text)
    (below / "cpu.stat").write_text("usage_usec 1\nnr_periods 70\nnr_throttled 30\nthrottled_usec 20000000\n")
    found = [*cadvisor.samples(plan), *processes.samples(plan, 999999999)]
    values = {s.name.removeprefix("container_"): s.value for s in found}
    expected = {
        "spec_cpu_quota": 50100,
        "spec_memory_limit_bytes": 4096,
        "spec_memory_swap_limit_bytes": 8192,
        "threads_max": 9,
        "cpu_usage_seconds_total": 5,
        "cpu_cfs_throttled_periods_total": 30,
        "cpu_cfs_throttled_seconds_total": 20,
    }
    assert {key: values[key] for key in expected} == expected
    stats = read_stats(plan)
    assert stats is not None
    assert (stats.available_bytes, stats.swap_available_bytes) == (4096 - 350, 8192 - 10)
    asked = cri.LinuxContainerResources(cpu_quota=50_100, memory_limit_in_bytes=5000)
    taken = readback.applied(asked, plan)
    assert (taken.cpu_quota, taken.memory_limit_in_bytes) == (50_100, 4096)


def test_a_cgroup_below_whose_processes_cannot_be_listed_hides_no_others(tmp_path: Path) -> None:
    for name in ("threaded", "gone", "exec-1"):
        (tmp_path / name).mkdir()
    (tmp_path / "cgroup.procs").write_text("1\n")
    (tmp_path / "threaded/cgroup.procs").mkdir()  # cannot be read, as EOPNOTSUPP says of it
    (tmp_path / "exec-1/cgroup.procs").write_text("2\n")
    assert sorted(tasks(str(tmp_path))) == ["1", "2"]
    with pytest.raises(FileNotFoundError):
        tasks(str(tmp_path / "gone"))


def test_a_cgroup_that_is_gone_tells_nothing(tmp_path: Path) -> None:
    plan = cgroups.CgroupPlan(driver="cgroupfs", version=2, oci_path="/x", dirs={"": str(tmp_path / "gone")})
    assert not cadvisor.samples(plan)
    assert not processes.samples(plan, 1)


@given(st.integers(2, 262144))
def test_shares_come_back_from_their_weight(shares: int) -> None:
    weight = cgroups.cpu_weight(shares)
    assert cgroups.cpu_weight(cgroups.cpu_shares(weight)) == weight


@pytest.mark.parametrize("step_s", [86_400, -86_400])
def test_a_step_of_the_clock_spoils_one_rate_and_no_more(tmp_path: Path, step_s: int) -> None:
    reading = read_stats(unified(tmp_path))
    assert reading is not None
    stats, at_s, rates = Stats(cast(Parts, None), cast(Written, None)), reading.timestamp_ns // 10**9, []
    for used_s, passed_s in ((0, 0), (2, 2), (4, step_s + 4), (5, step_s + 6)):
        usage = cri.CpuUsage()
        now = msgspec.structs.replace(
            reading, cpu_usage_ns=used_s * 10**9, timestamp_ns=(at_s + passed_s) * 10**9
        )
        stats._cpu("c", usage, now)
        rates.append(usage.usage_nano_cores.value)
    assert (rates[1], rates[3]) == (10**9, 10**9 // 2)
    assert 0 <= rates[2] <= 10**9
