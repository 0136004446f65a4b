"""The supervisor of a native node, with processes that do nothing: what it does when it cannot, and what outlives it."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from common.errors import DeadlineExceededError, FailedPreconditionError
from common.sys.mounts import unmount_below
from node import main, running, waiting
from node.layout import SERVICES, Layout
from node.supervisor import Supervisor
from tests.support.eventually import eventually, until

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.anyio]
IDLE = "import signal; signal.pause()"
RUN_ONE = """
import anyio, sys
from tests.e2e import test_e2e_supervisor as tests
from node.supervisor import Supervisor
tests.IDLE = sys.argv[3]
anyio.run(Supervisor(tests.Idle(run_dir=sys.argv[1], data_dir=sys.argv[2], nats_url='nats://t@h:1', redis_url='redis://h')).run)
"""


class Idle(Layout):
    """Processes with the arguments of the services, and no more."""

    def command(self, name: str) -> list[str]:
        return [sys.executable, "-SIc", IDLE, "--config", str(self.settings_file(name))]


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Idle]:
    run_dir = Path(f"/run/slipway-test-{uuid.uuid4().hex[:6]}")
    yield Idle(run_dir=str(run_dir), data_dir=str(tmp_path), nats_url="nats://t@h:1", redis_url="redis://h")
    running.end(running.left(str(run_dir)))
    unmount_below(run_dir)
    subprocess.run(["rm", "-rf", run_dir], check=True, timeout=20)


@asynccontextmanager
async def supervised(layout: Layout) -> AsyncIterator[None]:
    """A supervisor in this process; it ends as by a signal."""
    ended = anyio.Event()

    async def run() -> None:
        await Supervisor(layout).run()
        ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await until(lambda: running.supervisor(layout.run_dir), "the supervisor")
        yield
        os.kill(os.getpid(), signal.SIGTERM)
        await ended.wait()


@contextmanager
def supervisor_beside(layout: Layout, program: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A supervisor in a process of its own."""
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-c", RUN_ONE, layout.run_dir, layout.data_dir, program]
    with subprocess.Popen(command, cwd=root) as supervisor:
        try:
            yield supervisor
        finally:
            supervisor.terminate()


def pids(layout: Layout) -> dict[str, int]:
    return running.left(layout.run_dir)


async def test_a_process_that_cannot_be_started_ends_no_other(layout: Idle) -> None:
    in_the_way = Path(layout.run_dir, "settings/.crid.toml.new")
    in_the_way.mkdir(parents=True)
    async with supervised(layout):
        await until(lambda: len(pids(layout)) == len(SERVICES) - 1, "the others")
        log = layout.log_file("crid")
        await until(lambda: log.exists() and "Is a directory" in log.read_text(), "the reason, in its log")
        before = pids(layout)
        in_the_way.rmdir()
        await until(lambda: len(pids(layout)) == len(SERVICES), "all of them")
        assert pids(layout) | before == pids(layout)
    assert not pids(layout)


async def test_a_node_of_which_nothing_can_be_told_runs_and_stops(layout: Idle) -> None:
    in_the_way = Path(layout.run_dir, ".node.json.new")
    in_the_way.mkdir(parents=True)
    async with supervised(layout):
        await until(lambda: len(pids(layout)) == len(SERVICES), "all of them")
        assert running.supervisor(layout.run_dir) == os.getpid()
        in_the_way.rmdir()
        await until(layout.state_file.exists, "node.json")
    assert not pids(layout)
    assert not layout.state_file.exists()


async def test_a_node_that_runs_is_up_once_it_is_ready(layout: Idle, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = False
    monkeypatch.setattr(waiting, "serves", lambda *_: ready)
    async with supervised(layout):
        await until(layout.state_file.exists, "node.json")
        join = partial(waiting.join, layout.run_dir, 0.3)
        with pytest.raises(DeadlineExceededError, match="not ready after"):
            await anyio.to_thread.run_sync(join)
        ready = True
        found = await anyio.to_thread.run_sync(join)
        assert found
        assert found["supervisor"] == os.getpid()
    assert waiting.join(layout.run_dir, 0.3) is None


async def test_of_two_that_start_a_node_at_once_both_wait_for_it(
    layout: Idle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "serves", lambda *_: True)
    async with supervised(layout):
        await until(layout.state_file.exists, "node.json")
        with subprocess.Popen(["false"]) as refused:
            refused.wait()
            found = await anyio.to_thread.run_sync(waiting.until_ready, layout.run_dir, refused, 5.0)
    assert found["supervisor"] == os.getpid()


async def test_a_node_one_of_whose_processes_dies_again_and_again_is_not_up(
    layout: Idle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "serves", lambda *_: True)
    Path(layout.run_dir, "settings/.crid.toml.new").mkdir(parents=True)
    async with supervised(layout):
        await until(lambda: '"crid": 3' in layout.state_file.read_text(), "it to die three times")
        with pytest.raises(FailedPreconditionError, match=r"crid died 3 times: .*Is a directory"):
            await anyio.to_thread.run_sync(waiting.join, layout.run_dir, 5.0)


def test_a_node_that_stops_is_waited_for(layout: Idle) -> None:
    """Its processes go on for a second, as real ones may."""
    with supervisor_beside(
        layout, "from signal import *; signal(SIGTERM, lambda *_: alarm(1)); pause()"
    ) as one:
        eventually(lambda: layout.state_file.exists() and len(pids(layout)) == len(SERVICES), what="the node")
        one.terminate()
        eventually(lambda: '"stopping": true' in layout.state_file.read_text(), what="it to stop")
        assert waiting.join(layout.run_dir, 30.0) is None
        assert not pids(layout)


def test_what_outlives_its_supervisor_is_told_and_ended(
    layout: Idle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with supervisor_beside(layout, IDLE) as supervisor:
        eventually(lambda: len(pids(layout)) == len(SERVICES), what="all of them")
        left = pids(layout)
        supervisor.kill()
    layout.state_file.unlink()

    def call(verb: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["slipway-node", verb, "--run-dir", layout.run_dir])
        try:
            main.main()
        except SystemExit as exc:
            return int(exc.code or 0), capsys.readouterr().out
        return 0, capsys.readouterr().out

    monkeypatch.setattr(waiting, "serves", lambda *_: True)
    status, said = call("status")
    assert status == main.UNSUPERVISED
    assert all(f"{name:<10} pid {pid:<8} ready\n" in said for name, pid in left.items())
    assert "their supervisor has gone" in said
    assert call("down") == (0, f"node in {layout.run_dir} is down\n")
    assert not pids(layout)
    assert call("down") == (0, f"no node runs in {layout.run_dir}\n")
    assert call("status") == (main.NOT_RUNNING, f"no node runs in {layout.run_dir}\n")
