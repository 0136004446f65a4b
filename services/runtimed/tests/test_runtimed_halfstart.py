"""Starts, pauses and resumes whose outcome cannot be written, or asked for, at that moment: nothing runs unseen."""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import UnavailableError
from services.runtimed.tests.daemons import Daemons, Pods, executable, handler, needs, running_daemons
from tests.support import cgroups
from tests.support.eventually import until
from tests.support.pace import patience

pytestmark = needs("crun")
WAITS = """#!/bin/sh
case " $* " in *" run "*)
    [ -e {base}/held ] && touch {base}/begun
    while [ -e {base}/held ]; do sleep 0.02; done
esac
exec crun "$@"
"""
UNTIL_S = patience(30)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While its file `held` is there, the OCI runtime waits in `run`, and has made `begun`."""
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def daemons(gate: Path) -> Iterator[Daemons]:
    program = executable(gate / "waits", WAITS.format(base=gate))
    with running_daemons(**handler("crun", program)) as found:
        yield found


async def created(pods: Pods, *command: str) -> tuple[str, str]:
    config = pods.sandbox_config()
    sandbox_id = await pods.client.run_sandbox(config)
    wanted = pods.container_config(*(command or ("sleep", "1000")))
    return sandbox_id, await pods.client.create_container(sandbox_id, wanted, config, pods.image())


async def is_refused(call: Awaitable[object]) -> None:
    with pytest.raises(UnavailableError):
        await call


def processes(container_id: str) -> set[str]:
    found: set[str] = set()
    for path in cgroups.files(container_id, "cgroup.procs", "container/cgroup.procs"):  # below its scope
        with suppress(OSError):
            found |= set(path.read_text().split())
    return found


@asynccontextmanager
async def started_while_redis_hangs(pods: Pods, gate: Path, *command: str) -> AsyncIterator[str]:
    """A container whose start was refused, as long as Redis still hangs."""
    (gate / "held").touch()
    (gate / "begun").unlink(missing_ok=True)
    _, container_id = await created(pods, *command)
    ended = anyio.Event()

    async def start() -> None:
        await is_refused(pods.client.start_container(container_id))
        ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(start)
        await until((gate / "begun").exists, "the OCI runtime to begin", within_s=30)
        with pods.daemons.redis.frozen():
            (gate / "held").unlink()
            with anyio.fail_after(UNTIL_S):
                await ended.wait()
            yield container_id


async def test_what_was_started_while_redis_hung_runs_soon_after(pods: Pods, gate: Path) -> None:
    async with started_while_redis_hangs(pods, gate) as container_id:
        assert processes(container_id)
    # within a time in which the reconciler begins no other round
    await pods.reached(container_id, cri.CONTAINER_RUNNING, within_s=15)
    await pods.client.stop_container(container_id, 0)
    assert (await pods.status(container_id)).exit_code == 137


async def test_a_start_whose_end_cannot_be_written_is_to_be_asked_for_again(pods: Pods, gate: Path) -> None:
    async with started_while_redis_hangs(pods, gate, "sh", "-c", "exit 3") as container_id:
        await until(lambda: not processes(container_id), "the end", within_s=30)
        with anyio.fail_after(UNTIL_S):
            await is_refused(pods.client.start_container(container_id))
    assert (await pods.exited(container_id)).exit_code == 3


async def test_a_stop_whose_end_cannot_be_written_is_to_be_asked_for_again(pods: Pods) -> None:
    _, container_id, _ = await pods.running(
        "sh", "-c", "trap 'echo term' TERM; echo up; while :; do sleep 0.1; done"
    )
    log = Path((await pods.status(container_id)).log_path)
    await until(lambda: "F up" in log.read_text(), "its trap")
    refused = anyio.Event()

    async def stop() -> None:
        with pytest.raises(UnavailableError, match="has ended, but"):
            await pods.client.stop_container(container_id, 2)
        refused.set()

    async with anyio.create_task_group() as group:
        group.start_soon(stop)
        await until(lambda: "F term" in log.read_text(), "the stop")
        with pods.daemons.redis.frozen():
            for pid in processes(container_id):
                with suppress(ProcessLookupError):  # its sleep comes and goes
                    os.kill(int(pid), signal.SIGKILL)
            with anyio.fail_after(UNTIL_S):
                await refused.wait()
    assert (await pods.exited(container_id)).exit_code == 137


async def test_a_stop_right_after_ends_it(pods: Pods, gate: Path) -> None:
    async with started_while_redis_hangs(pods, gate) as container_id:
        assert processes(container_id)
    await pods.client.stop_container(container_id, 0)
    status = await pods.status(container_id)
    assert (status.state, status.exit_code, processes(container_id)) == (cri.CONTAINER_EXITED, 137, set())


async def test_nothing_is_stopped_while_nobody_can_say_whether_it_runs(pods: Pods, gate: Path) -> None:
    (gate / "held").touch()
    (gate / "begun").unlink(missing_ok=True)
    sandbox_id, container_id = await created(pods)
    async with anyio.create_task_group() as group:
        group.start_soon(is_refused, pods.client.start_container(container_id))
        await until((gate / "begun").exists, "the OCI runtime to begin", within_s=30)
        pods.daemons.kill("runtimed")
    pods.daemons.kill("shimd")
    (gate / "held").unlink()
    await until(lambda: processes(container_id), "its processes", within_s=30)
    pods.daemons.start("runtimed")
    async with anyio.create_task_group() as group:
        group.start_soon(is_refused, pods.client.stop_container(container_id, 0))
        group.start_soon(is_refused, pods.client.stop_sandbox(sandbox_id))
        group.start_soon(is_refused, pods.client.remove_container(container_id))
    assert processes(container_id)
    assert (pods.daemons.base / "run/runtimed/sandboxes" / sandbox_id).is_dir()
    pods.daemons.start("shimd")
    await pods.client.stop_container(container_id, 0)
    status = await pods.status(container_id)
    assert (status.state, status.exit_code, processes(container_id)) == (cri.CONTAINER_EXITED, 137, set())


async def test_a_pause_that_cannot_be_written_leaves_it_running(pods: Pods) -> None:
    _, container_id, _ = await pods.running("sleep", "1000")
    with pods.daemons.redis.frozen(), pytest.raises(UnavailableError):
        await pods.client.stub.PauseContainer(pb.PauseContainerRequest(container_id=container_id), timeout=60)
    assert (await pods.client.exec_sync(container_id, ["echo", "here"])).stdout == b"here\n"


async def test_a_resume_that_could_not_be_written_is_asked_for_again(pods: Pods) -> None:
    _, container_id, _ = await pods.running("sleep", "1000")
    await pods.client.stub.PauseContainer(pb.PauseContainerRequest(container_id=container_id), timeout=60)
    request = pb.ResumeContainerRequest(container_id=container_id)
    with pods.daemons.redis.frozen(), pytest.raises(UnavailableError):
        await pods.client.stub.ResumeContainer(request, timeout=60)
    await pods.client.stub.ResumeContainer(request, timeout=60)
    assert (await pods.client.exec_sync(container_id, ["echo", "here"])).stdout == b"here\n"
