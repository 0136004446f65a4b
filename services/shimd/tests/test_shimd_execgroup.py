"""An exec's processes on a unified hierarchy: where they live, and that none is forgotten at their end."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimd.shim import cgroup, execgroup, mountns, pids
from tests.support.eventually import eventually

pytestmark = pytest.mark.root
ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
PATH = {"PATH": "/usr/bin:/bin"}
DAEMON = """read go
setsid sh -c 'exec >/dev/null 2>&1 </dev/null; sleep 1001 & sleep 1002 & exit' &
wait
sleep 1003"""


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cgroup of a container, and nothing else that is not to be killed."""
    root = next((path for path in ROOTS if (path / "cgroup.procs").exists()), None)
    if os.geteuid() or root is None:
        pytest.skip("needs root and a unified hierarchy")
    monkeypatch.setattr(cgroup, "_ROOT", str(root))
    # a hybrid layout's has no controllers, and no such file
    monkeypatch.setattr(cgroup, "is_unified", lambda: True)
    directory = root / f"slipway-{tmp_path.name}"
    directory.mkdir()
    yield directory
    left = cgroup.tree_procs(str(directory))
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not cgroup.tree_procs(str(directory)), what="the container's end")
    directory.rmdir()


def enter(directory: Path, command: list[str], number: int | None) -> tuple[int, int]:
    """A command that begins when the returned descriptor is closed."""
    begin_fd, fd = os.pipe()
    nowhere = os.open("/dev/null", os.O_RDWR)
    slack = 0 if number is None else execgroup.slack_ns(number)
    pid = mountns.spawn(command, PATH, [begin_fd, nowhere, nowhere], slack_ns=slack)
    os.close(begin_fd)
    os.close(nowhere)
    (directory / "cgroup.procs").write_text(str(pid))
    return pid, fd


def names(directory: Path) -> list[str]:
    found = []
    for pid in cgroup.tree_procs(str(directory)):
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
        except FileNotFoundError:
            continue
    return sorted(found)


def test_an_exec_lives_in_the_cgroup_of_its_container_and_is_killed_with_its_daemons(container: Path) -> None:
    init, begin = enter(container, ["sleep", "1000"], None)
    other, go_other = enter(container, ["sh", "-c", DAEMON], 6)
    pid, go = enter(container, ["sh", "-c", DAEMON], 7)
    for fd in (begin, go_other, go):
        os.write(fd, b"\n")
        os.close(fd)
    here = [f"sleep {number}" for number in (1000, 1001, 1001, 1002, 1002, 1003, 1003)]
    eventually(lambda: [name for name in names(container) if name.startswith("sleep")] == here)
    group = execgroup.ExecGroup(init, 7, pid, frozenset())
    assert [path for path in container.iterdir() if path.is_dir()] == []
    assert f"/{container.name}\n" in Path(f"/proc/{pid}/cgroup").read_text()
    group.kill()
    os.waitpid(pid, 0)
    eventually(lambda: not group.kill(), what="the end of all")
    group.release()
    left = [name for name in names(container) if name.startswith("sleep")]
    assert left == ["sleep 1000", "sleep 1001", "sleep 1002", "sleep 1003"]
    assert [path for path in container.iterdir() if path.is_dir()] == []
    os.kill(init, signal.SIGKILL)
    os.kill(other, signal.SIGKILL)
    os.waitpid(init, 0)
    os.waitpid(other, 0)


def test_what_crun_counts_below_a_scope_counts(tmp_path: Path) -> None:
    scope = tmp_path / "slipway-a.scope"
    (scope / "container").mkdir(parents=True)
    (scope / "pids.max").write_text("9\n")
    (scope / "pids.events").write_text("max 0\n")
    (scope / "container/pids.max").write_text("max\n")
    (scope / "container/pids.events").write_text("max 3\n")
    assert pids.limit(str(scope)) == {"limit": 9, "hits": 3}
    assert pids.limit(str(scope / "container")) == {"hits": 3}


def test_what_is_thawed_is_the_scope_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = tmp_path / "slipway-a.scope/container"
    leaf.mkdir(parents=True)
    for path in (leaf, leaf.parent):
        (path / "cgroup.freeze").write_text("1")
    (tmp_path / "cgroup.freeze").write_text("1")
    monkeypatch.setattr(cgroup, "container_cgroup", lambda *_: str(leaf))
    cgroup.thaw(1)
    assert [(path / "cgroup.freeze").read_text() for path in (leaf, leaf.parent, tmp_path)] == ["0", "0", "1"]
