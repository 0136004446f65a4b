"""OOM kills of a cgroup that has gone before anybody looked, as systemd removes it; directories stand for cgroups of version 2."""

import shutil
from pathlib import Path

import pytest

from shimd.shim.loop import Loop
from shimd.shim.oom import OomWatch


class Cgroups:
    """A pod's cgroup, and a container's in it."""

    def __init__(self, root: Path) -> None:
        self.pod = root / "pod.slice"
        self.container = self.pod / "c.scope"
        self.container.mkdir(parents=True)
        self.set(self.pod)
        self.set(self.container)

    @staticmethod
    def set(cgroup: Path, *, hits: int = 0, kills: int = 0) -> None:
        (cgroup / "memory.events").write_text(f"low 0\nhigh 0\nmax {hits}\noom {kills}\noom_kill {kills}\n")
        (cgroup / "memory.max").write_text("16777216\n")

    def remove_container(self) -> None:
        shutil.rmtree(self.container)


@pytest.fixture
def cgroups(tmp_path: Path) -> Cgroups:
    return Cgroups(tmp_path)


def watching(cgroups: Cgroups) -> OomWatch:
    made = OomWatch(Loop(), str(cgroups.container), lambda: None)
    made.open()
    return made


def test_a_kill_that_only_the_cgroup_above_still_knows_counts_once(cgroups: Cgroups) -> None:
    cgroups.set(cgroups.pod, kills=3)  # of before
    watch = watching(cgroups)
    cgroups.set(cgroups.container, hits=7)
    assert watch.memory()["limit_bytes"] == 16 << 20
    cgroups.set(cgroups.pod, hits=7, kills=4)
    cgroups.remove_container()
    assert watch.delta() == 1
    assert watch.delta() == 1
    assert watch.memory() == {"oom_kill": 1, "limit_bytes": 16 << 20, "high": 0, "max": 7}


def test_a_kill_beside_a_container_that_was_never_at_its_limit_is_not_its_own(cgroups: Cgroups) -> None:
    watch = watching(cgroups)
    assert watch.delta() == 0
    cgroups.set(cgroups.pod, hits=1, kills=1)
    cgroups.remove_container()
    assert watch.delta() == 0


def test_a_kill_in_a_cgroup_that_is_there_counts_without_those_beside_it(cgroups: Cgroups) -> None:
    watch = watching(cgroups)
    cgroups.set(cgroups.container, hits=2, kills=1)
    cgroups.set(cgroups.pod, hits=5, kills=3)
    assert watch.delta() == 1


def test_what_was_seen_above_is_handed_over(cgroups: Cgroups) -> None:
    watch = watching(cgroups)
    cgroups.set(cgroups.container, hits=7)
    watch.memory()
    facts = watch.hand_over(lambda _fd, _events: 0)
    other = OomWatch(Loop(), str(cgroups.container), lambda: None)
    other.take_over(facts, lambda _number: -1)
    cgroups.set(cgroups.pod, hits=7, kills=1)
    cgroups.remove_container()
    assert other.delta() == 1
