"""SIGKILL for any one service while pods run: no container, log line, exit code or event is lost."""

import time

import anyio
import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from common.events.bus import follow
from tests.e2e.test_e2e_pods import exited, pod
from tests.support.eventually import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]


async def recovered(cri, container_id: str):
    """The first status that is answered again."""
    with anyio.fail_after(60):
        while True:
            try:
                return await cri.status(container_id)
            except grpc.aio.AioRpcError as exc:
                if exc.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    raise
            await anyio.sleep(0.05)


@pytest.mark.parametrize("victim", ["imaged", "snapshotd", "runtimed", "shimd", "crid", "redis", "nats"])
async def test_a_killed_service_loses_nothing(cri, node, busybox, victim: str) -> None:
    since_ns = time.time_ns()
    count = 60
    script = f"i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); sleep 0.05; done; exit 9"
    _, container_id = await pod(cri, f"kill-{victim}", busybox, ["sh", "-c", script])
    died = node.kill(victim)
    eventually(lambda: node.pid(victim) != died, within_s=30, what=f"a new {victim}")
    await recovered(cri, container_id)
    status = await exited(cri, container_id)
    assert (status.exit_code, status.reason) == (9, "Error")
    lines = (node.logs / f"kill-{victim}" / "c.log").read_text().splitlines()
    assert [line.split(" ", 3)[3] for line in lines] == [f"line {i}" for i in range(count)]
    seen = []
    with anyio.fail_after(60):
        async for envelope in follow(
            node.state["nats_url"], kind="container", object_id=container_id, since_ns=since_ns
        ):
            seen.append(envelope.fields()["type"].rpartition(".")[0])
            if seen[-1] == "container.exited":
                break
    assert seen == ["container.created", "container.started", "container.exited"]
    sandbox_id = (await cri.call(cri.runtime.ListPodSandbox, cri_pb.ListPodSandboxRequest())).items[0].id
    await cri.remove(container_id)
    await cri.remove_sandbox(sandbox_id)


async def test_an_exit_while_runtimed_is_dead_is_not_lost(cri, node, busybox) -> None:
    _, container_id = await pod(cri, "exit-alone", busybox, ["sh", "-c", "sleep 0.3; exit 42"])
    died = node.kill("runtimed")
    node.kill("shimd")
    eventually(lambda: node.pid("runtimed") != died, within_s=30, what="a new runtimed")
    await recovered(cri, container_id)
    assert (await exited(cri, container_id)).exit_code == 42
