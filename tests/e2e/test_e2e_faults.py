"""SIGKILL for any one service, or NATS or Redis that hangs, while pods run: no container, log line, exit code or event is lost."""

import os
import signal
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from functools import partial

import anyio
import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from common.events.bus import follow
from common.records.redis import ANSWER_S
from devtools.cri import Cri
from tests.e2e.test_e2e_pods import exited, pod
from tests.support import logs
from tests.support.eventually import eventually, until
from tests.support.node import TestNode
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]


def begin_anew(node: TestNode, name: str) -> None:
    """Kill one process of the node, and wait for the next."""
    died = node.kill(name)
    eventually(lambda: node.pid(name) != died, within_s=30, what=f"a new {name}")


async def recovered(cri: Cri, container_id: str) -> cri_pb.ContainerStatus:
    """The first status that is answered again."""

    async def answered() -> cri_pb.ContainerStatus | None:
        try:
            return await cri.status(container_id)
        except grpc.aio.AioRpcError as exc:
            if exc.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise
            return None

    return await until(answered, "an answer", within_s=60)


LIFE = ["container.created", "container.started", "container.exited"]


async def events(node: TestNode, container_id: str, since_ns: int) -> list[str]:
    """The types of a container's events up to its exit."""
    seen: list[str] = []
    with anyio.fail_after(patience(60)):
        async for envelope in follow(
            node.state["nats_url"], kind="container", object_id=container_id, since_ns=since_ns
        ):
            seen.append(envelope.fields()["type"].rpartition(".")[0])
            if seen[-1] == "container.exited":
                break
    return seen


@pytest.mark.parametrize(
    "victim", ["imaged", "snapshotd", "runtimed", "shimd", "crid", "opsd", "redis", "nats"]
)
async def test_a_killed_service_loses_nothing(cri: Cri, node: TestNode, busybox: str, victim: str) -> None:
    since_ns = time.time_ns()
    count = 60
    script = f"i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); sleep 0.05; done; exit 9"
    _, container_id = await pod(cri, f"kill-{victim}", busybox, ["sh", "-c", script])
    died = node.kill(victim)
    eventually(lambda: node.pid(victim) != died, within_s=30, what=f"a new {victim}")
    await recovered(cri, container_id)
    status = await exited(cri, container_id)
    assert (status.exit_code, status.reason) == (9, "Error")
    assert logs.lines(node.logs / f"kill-{victim}" / "c.log") == [f"line {i}" for i in range(count)]
    assert await events(node, container_id, since_ns) == LIFE
    sandbox_id = (await cri.call(cri.runtime.ListPodSandbox, cri_pb.ListPodSandboxRequest())).items[0].id
    await cri.remove(container_id)
    await cri.remove_sandbox(sandbox_id)
    assert await node.differences() == []


async def test_an_exit_while_runtimed_is_dead_is_not_lost(cri: Cri, node: TestNode, busybox: str) -> None:
    _, container_id = await pod(cri, "exit-alone", busybox, ["sh", "-c", "sleep 0.3; exit 42"])
    died = node.kill("runtimed")
    node.kill("shimd")
    eventually(lambda: node.pid("runtimed") != died, within_s=30, what="a new runtimed")
    await recovered(cri, container_id)
    assert (await exited(cri, container_id)).exit_code == 42
    assert await node.differences() == []


@contextmanager
def frozen(node: TestNode, name: str) -> Iterator[None]:
    """SIGSTOP for one process of the node."""
    handle = os.pidfd_open(node.pid(name))
    signal.pidfd_send_signal(handle, signal.SIGSTOP)
    try:
        yield
    finally:
        signal.pidfd_send_signal(handle, signal.SIGCONT)
        os.close(handle)


async def test_an_exit_while_nats_hangs_is_caught_up(cri: Cri, node: TestNode, busybox: str) -> None:
    since_ns = time.time_ns()
    name, count = "hang-nats", 40
    script = f"i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); sleep 0.05; done; exit 9"
    sandbox_id, container_id = await pod(cri, name, busybox, ["sh", "-c", script])
    log = node.logs / name / "c.log"
    with frozen(node, "nats"):
        await anyio.to_thread.run_sync(
            partial(
                eventually,
                lambda: len(logs.lines(log)) == count,
                within_s=30,
                what="all lines while it hangs",
            )
        )
        sandbox = cri.sandbox_config(name, host_network=True)
        with anyio.fail_after(patience(60)):
            await cri.create(sandbox_id, cri.container_config("d", busybox, ["true"]), sandbox)
    await recovered(cri, container_id)
    status = await exited(cri, container_id)
    assert (status.exit_code, status.reason) == (9, "Error")
    assert logs.lines(log) == [f"line {i}" for i in range(count)]
    assert await events(node, container_id, since_ns) == LIFE
    assert await node.differences() == []


async def is_refused(call: Awaitable[object]) -> None:
    with (
        pytest.raises(grpc.aio.AioRpcError, match="Redis") as caught,
        anyio.fail_after(3 * ANSWER_S + 10),
    ):
        await call
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_while_redis_hangs_requests_are_refused_in_time_and_an_exit_is_kept(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    name = "hang-redis"
    sandbox_id, ending = await pod(cri, name, busybox, ["sh", "-c", "sleep 2; exit 9"])
    sandbox = cri.sandbox_config(name, host_network=True)
    staying = await cri.create(sandbox_id, cri.container_config("s", busybox, ["sleep", "1000"]), sandbox)
    await cri.start(staying)
    wanted = cri.container_config("late", busybox, ["true"])
    with frozen(node, "redis"):
        async with anyio.create_task_group() as group:
            group.start_soon(is_refused, cri.create(sandbox_id, wanted, sandbox))
            group.start_soon(is_refused, cri.stop(staying, 0))
        assert (await cri.status(staying)).state == cri_pb.CONTAINER_RUNNING
    assert ((await exited(cri, ending)).exit_code, (await cri.status(ending)).finished_at > 0) == (9, True)
    late = await cri.create(sandbox_id, wanted, sandbox)
    assert await cri.create(sandbox_id, wanted, sandbox) == late
    await cri.stop(staying, 0)
    assert (await cri.status(staying)).exit_code == 137
    died = node.kill("runtimed")  # what it reads of Redis has nothing that was refused
    eventually(lambda: node.pid("runtimed") != died, within_s=30, what="a new runtimed")
    await recovered(cri, late)
    listed = await cri.call(
        cri.runtime.ListContainers,
        cri_pb.ListContainersRequest(filter=cri_pb.ContainerFilter(pod_sandbox_id=sandbox_id)),
    )
    assert {c.id for c in listed.containers} == {ending, staying, late}
    await cri.start(late)
    assert (await exited(cri, late)).exit_code == 0
    assert await node.differences() == []
