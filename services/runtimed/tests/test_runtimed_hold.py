"""Containers that stand still: by request, across deaths of runtimed, and when they are to end."""

import os
from pathlib import Path

import anyio
import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import FailedPreconditionError, InvalidArgumentError
from services.runtimed.tests.daemons import Pods, needs
from tests.support.eventually import until

pytestmark = needs("crun")
TICKS = "trap 'exit 7' TERM; trap 'echo usr' USR1; while :; do echo tick; sleep 0.02; done"


async def pause(pods: Pods, container_id: str) -> None:
    await pods.client.stub.PauseContainer(pb.PauseContainerRequest(container_id=container_id), timeout=30)


async def resume(pods: Pods, container_id: str) -> None:
    await pods.client.stub.ResumeContainer(pb.ResumeContainerRequest(container_id=container_id), timeout=30)


async def send(pods: Pods, container_id: str, number: int) -> None:
    request = pb.SignalContainerRequest(container_id=container_id, signal=number)
    await pods.client.stub.SignalContainer(request, timeout=30)


def freezer_file(pid: int) -> tuple[Path, str, str]:
    """The file that holds a process still, and its words for still and running."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if "freezer" in controllers.split(","):
            return Path(f"/sys/fs/cgroup/freezer{path}/freezer.state"), "FROZEN", "THAWED"
        if number == "0" and Path(f"/sys/fs/cgroup{path}/cgroup.freeze").exists():
            return Path(f"/sys/fs/cgroup{path}/cgroup.freeze"), "1", "0"
    raise AssertionError(pid)


async def grows(log: Path) -> None:
    size = log.stat().st_size
    await until(lambda: log.stat().st_size != size, f"{log} to grow")


async def stands_still(log: Path) -> None:
    size = log.stat().st_size
    await anyio.sleep(0.3)
    assert log.stat().st_size == size


async def test_a_paused_container_does_nothing_until_it_is_resumed(pods: Pods) -> None:
    _, container_id, _ = await pods.running("sh", "-c", TICKS)
    log = Path((await pods.status(container_id)).log_path)
    await grows(log)
    await pause(pods, container_id)
    await stands_still(log)
    assert (await pods.facts(container_id))["state"] == "paused"
    assert (await pods.status(container_id)).state == cri.CONTAINER_RUNNING
    shown = (await pods.client.stub.Overview(pb.OverviewRequest(), timeout=30)).containers
    assert [entry.paused for entry in shown if entry.container.id == container_id] == [True]
    with pytest.raises(FailedPreconditionError, match="unpause it first"):
        await pods.client.exec_sync(container_id, ["true"])
    with pytest.raises(FailedPreconditionError, match="is paused, not running"):
        await pause(pods, container_id)
    await resume(pods, container_id)
    await grows(log)
    with pytest.raises(FailedPreconditionError, match="is running, not paused"):
        await resume(pods, container_id)
    answer = await pods.client.exec_sync(container_id, ["echo", "on"])
    assert answer.stdout == b"on\n"
    await pods.client.remove_container(container_id)


async def test_a_paused_container_is_stopped_by_its_signal_and_removed_at_once(pods: Pods) -> None:
    _, container_id, _ = await pods.running("sh", "-c", TICKS)
    await grows(Path((await pods.status(container_id)).log_path))  # its trap is set
    await pause(pods, container_id)
    await pods.client.stop_container(container_id, 10)
    assert (await pods.status(container_id)).exit_code == 7
    _, other_id, _ = await pods.running("sleep", "100")
    await pause(pods, other_id)
    await pods.client.remove_container(other_id)


async def test_a_signal_to_a_paused_container_waits_unless_it_ends_it(pods: Pods) -> None:
    _, container_id, _ = await pods.running("sh", "-c", TICKS)
    log = Path((await pods.status(container_id)).log_path)
    await grows(log)
    await pause(pods, container_id)
    await send(pods, container_id, 10)
    await stands_still(log)
    await resume(pods, container_id)
    await until(lambda: "F usr" in log.read_text(), "the signal's line")
    await pause(pods, container_id)
    await send(pods, container_id, 9)
    assert (await pods.exited(container_id)).exit_code == 137
    with pytest.raises(FailedPreconditionError, match="not running"):
        await send(pods, container_id, 10)
    with pytest.raises(InvalidArgumentError, match="signal: 65"):
        await send(pods, container_id, 65)


async def test_a_pause_outlives_runtimed(pods: Pods) -> None:
    _, container_id, _ = await pods.running("sh", "-c", TICKS)
    log = Path((await pods.status(container_id)).log_path)
    await grows(log)
    await pause(pods, container_id)
    pods.daemons.kill("runtimed")
    pods.daemons.start("runtimed")
    await stands_still(log)
    assert (await pods.facts(container_id))["state"] == "paused"
    await resume(pods, container_id)
    await grows(log)
    await pods.client.stop_container(container_id, 10)
    assert (await pods.status(container_id)).exit_code == 7


async def test_what_was_paused_or_resumed_while_runtimed_was_dead_is_found(pods: Pods) -> None:
    _, container_id, _ = await pods.running("sh", "-c", TICKS)
    freezer, still, running = freezer_file((await pods.facts(container_id))["pid"])
    for word, state in ((still, "paused"), (running, "running")):
        pods.daemons.kill("runtimed")
        freezer.write_text(word)
        pods.daemons.start("runtimed")
        await pods.fact_is(container_id, state)
    await pods.client.remove_container(container_id)


async def test_the_end_of_a_paused_container_is_told(pods: Pods) -> None:
    _, container_id, _ = await pods.running("sleep", "100")
    pid = (await pods.facts(container_id))["pid"]
    await pause(pods, container_id)
    os.kill(pid, 9)
    freezer, _, running = freezer_file(pid)
    freezer.write_text(running)
    assert (await pods.exited(container_id)).exit_code == 137


async def test_an_ended_container_starts_again_with_what_it_wrote(pods: Pods) -> None:
    script = "test -e /tmp/was && exit 4; echo first >/tmp/was; exit 3"
    _, container_id, _ = await pods.running("sh", "-c", script)
    first = await pods.exited(container_id)
    again = pb.StartAgainRequest(container_id=container_id)
    await pods.client.stub.StartAgain(again, timeout=30)
    second = await pods.exited(container_id)
    assert (first.exit_code, second.exit_code) == (3, 4)
    assert first.finished_at < second.started_at <= second.finished_at
    with pytest.raises(FailedPreconditionError):
        await pods.client.start_container(container_id)  # CRI's own rule holds


async def test_what_runs_does_not_start_again(pods: Pods) -> None:
    _, container_id, _ = await pods.running("sleep", "100")
    with pytest.raises(FailedPreconditionError, match="StartAgainAsked while running"):
        await pods.client.stub.StartAgain(pb.StartAgainRequest(container_id=container_id), timeout=30)
    await pods.client.remove_container(container_id)
