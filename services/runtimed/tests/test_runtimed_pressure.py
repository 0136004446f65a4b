"""Hysteresis of pressure, and what is read of the machine."""

from pathlib import Path

import pytest

from runtimed.oci.cgroups import CgroupPlan
from runtimed.pressure.level import Level, News
from runtimed.pressure.trigger import MemoryTrigger
from runtimed.readings import pressure
from runtimed.readings.pressure import CgroupWatch
from runtimed.settings import Settings

pytestmark = pytest.mark.anyio
CALM_S = 10


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([79, 80, 95, 100], [None, News.RAISED, None, None]),
        ([80, 73, 80, 73], [News.RAISED, None, None, None]),
        ([80, 71, 71, 71], [News.RAISED, None, None, News.CLEARED]),
        ([80, 71, 75, 71, 71, 71], [News.RAISED, None, None, None, None, News.CLEARED]),
        ([80, 0, 0, 0, 80], [News.RAISED, None, None, News.CLEARED, News.RAISED]),
    ],
    ids=["once", "not by wavering", "after calm", "calm anew after a peak", "again"],
)
def test_pressure_is_told_once_and_cleared_after_calm(values: list[float], told: list[News | None]) -> None:
    level, heard = Level(), []
    for number, value in enumerate(values):
        level, news = level.step(value, 80, number * 5, CALM_S)
        heard.append(news)
    assert heard == told


def test_the_node_tells_stalls_and_disk() -> None:
    settings = Settings(data_dir="/")
    found = {reading.resource: reading for reading in pressure.of_node(settings)}
    assert 0 < found["disk"].value < 100
    assert (found["disk"].where, found["disk"].threshold) == ("/", settings.pressure_disk_percent)
    stalls = {path.name for path in Path("/proc/pressure").glob("*")} & {"cpu", "memory", "io"}
    assert found.keys() - {"disk", "inodes"} == stalls
    assert all(0 <= found[resource].value <= 100 for resource in stalls)


def test_a_threshold_of_0_is_not_looked_at() -> None:
    settings = Settings(
        data_dir="/",
        pressure_cpu_percent=0,
        pressure_memory_percent=0,
        pressure_io_percent=0,
        pressure_disk_percent=0,
    )
    assert pressure.of_node(settings) == []


def test_counts_of_a_v2_cgroup_are_told_by_their_growth(tmp_path: Path) -> None:
    def write(**files: str) -> None:
        for name, text in files.items():
            (tmp_path / name.replace("_", ".")).write_text(text)

    def look(watch: CgroupWatch) -> dict[str, float]:
        plan = CgroupPlan(driver="cgroupfs", version=2, oci_path="/x", dirs={"": str(tmp_path)})
        return {reading.resource: reading.value for reading in watch.look(plan, Settings())}

    write(memory_max="1000\n", memory_current="950\n", memory_stat="anon 900\ninactive_file 30\n")
    write(memory_events="low 0\nhigh 2\nmax 5\noom 1\noom_kill 1\n")
    stall = (
        "some avg10=12.50 avg60=1.00 avg300=0.10 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    )
    write(memory_pressure=stall)
    known, fresh = CgroupWatch(fresh=False), CgroupWatch(fresh=True)
    assert look(known) == {
        "memory-high": 0,
        "memory-limit": 0,
        "oom-kill": 0,
        "memory-usage": 92.0,
        "memory": 12.5,
    }
    assert look(fresh)["memory-limit"] == 5
    write(memory_events="low 0\nhigh 2\nmax 9\noom 1\noom_kill 1\n")
    assert (look(known)["memory-limit"], look(known)["memory-limit"]) == (4, 0)


async def test_a_trigger_without_threshold_never_fires() -> None:
    trigger = MemoryTrigger(0)
    assert not await trigger.wait(0.05)
    trigger.close()
