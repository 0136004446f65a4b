"""Stores that forget: Redis wiped, its log cut short, JetStream wiped. What runs goes on, and the node comes back by itself."""

import os
import shutil
import time
from contextlib import contextmanager

import anyio
import pytest
from redis import Redis

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import connect
from tests.e2e.test_e2e_faults import LIFE, events, recovered
from tests.e2e.test_e2e_pods import exited, pod
from tests.support.eventually import eventually
from tests.support.node import running_node
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]
OWNERS = ("imaged", "snapshotd", "runtimed")


@pytest.fixture(scope="module")
def outage(shop, tmp_path_factory: pytest.TempPathFactory):
    with running_node(tmp_path_factory.mktemp("outage")) as running:
        yield running


@pytest.fixture
async def cri(outage):
    async with connect(outage.socket, outage.logs) as client:
        yield client
        await client.remove_all()


@contextmanager
def nobody_starts(node, name: str):
    """One process of the node is dead meanwhile, and there again after."""
    with node.without(name) as died:
        yield
    eventually(lambda: node.pid(name) != died, within_s=30, what=f"a new {name}")


async def restarted(node, cri, container_id: str) -> None:
    """Every service that has records is another process now, and answers."""
    for name in OWNERS:
        died = node.kill(name)
        eventually(lambda name=name, died=died: node.pid(name) != died, within_s=30, what=f"a new {name}")
    await recovered(cri, container_id)


async def goes_on(cri, container_id: str) -> None:
    """It runs, takes commands, and ends with its code."""
    await recovered(cri, container_id)
    assert (await cri.exec(container_id, ["echo", "here"])).stdout == b"here\n"
    await cri.stop(container_id, 10)
    status = await exited(cri, container_id)
    assert (status.exit_code, status.reason) == (7, "Error")


async def amiss(node, *but: str) -> list[str]:
    """What the checker tells, but of such kinds: a store that forgot gives numbers again, and an emulated boot keeps cgroups."""
    return [one for one in await node.differences() if not one.startswith(("event ", *but))]


SCRIPT = ["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"]


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
async def test_a_wiped_redis_costs_no_container_and_no_image(outage, cri, busybox, restart: bool) -> None:
    sandbox_id, container_id = await pod(cri, f"wiped-{restart}", busybox, SCRIPT, host_network=False)
    with Redis(unix_socket_path=f"{outage.run_dir}/redis.sock") as redis:
        redis.flushall()
    if restart:
        await restarted(outage, cri, container_id)
        images = (await cri.call(cri.images.ListImages, cri_pb.ListImagesRequest())).images
        assert [image for image in images if busybox in image.repo_tags]
        assert await amiss(outage) == []
    await goes_on(cri, container_id)
    await cri.remove(container_id)
    await cri.remove_sandbox(sandbox_id)
    eventually(lambda: not any(outage.leftovers().values()), what="an empty node, also its trash")


async def test_a_log_of_redis_that_was_cut_short_makes_no_record_lie(outage, cri, busybox) -> None:
    _, running = await pod(cri, "cut-running", busybox, SCRIPT)
    _, ended = await pod(cri, "cut-ended", busybox, ["sh", "-c", "exit 9"])
    assert (await exited(cri, ended)).exit_code == 9
    with Redis(unix_socket_path=f"{outage.run_dir}/redis.sock") as redis:
        eventually(
            lambda: not redis.info("persistence")["aof_buffer_length"], what="all in the file of the log"
        )
    with nobody_starts(outage, "redis"):
        log = max(
            (outage.data_dir / "redis" / "appendonlydir").glob("*.incr.aof"), key=lambda p: p.stat().st_size
        )
        os.truncate(log, log.stat().st_size * 2 // 3)
    assert (await recovered(cri, ended)).exit_code == 9
    await restarted(outage, cri, running)
    assert ((await cri.status(ended)).state, (await cri.status(ended)).exit_code) == (
        cri_pb.CONTAINER_EXITED,
        9,
    )
    assert await amiss(outage) == []
    await goes_on(cri, running)


async def test_a_log_of_redis_that_ends_in_zeros_is_cut_after_its_last_command(outage, cri, busybox) -> None:
    """As a power cut leaves a file whose length was written before its bytes."""
    _, running = await pod(cri, "zeros-running", busybox, SCRIPT)
    with nobody_starts(outage, "redis"):
        folder = outage.data_dir / "redis" / "appendonlydir"
        log = max(folder.glob("*.incr.aof"), key=lambda p: p.stat().st_size)
        with log.open("ab") as file:
            file.write(bytes(4096))
    await restarted(outage, cri, running)
    assert log.with_suffix(".damaged").read_bytes().endswith(bytes(4096))
    said = (outage.run_dir / "log" / "supervisor.log").read_text()
    assert f"cut 4096 bytes off {log}" in said
    assert await amiss(outage) == []
    await goes_on(cri, running)


async def test_a_wiped_jetstream_is_made_again_and_events_go_on(outage, cri, busybox) -> None:
    _, container_id = await pod(cri, "no-stream", busybox, SCRIPT)
    with nobody_starts(outage, "nats"):
        shutil.rmtree(outage.data_dir / "nats" / "jetstream")
    since_ns = time.time_ns()
    await goes_on(cri, container_id)
    _, later = await pod(cri, "new-stream", busybox, ["sh", "-c", "exit 3"])
    assert (await exited(cri, later)).exit_code == 3
    with anyio.fail_after(patience(60)):
        assert await events(outage, later, since_ns) == LIFE


async def test_a_boot_that_emptied_run_leaves_what_can_be_removed_and_nothing_else(
    outage, cri, busybox
) -> None:
    sandbox_id, container_id = await pod(cri, "boot", busybox, SCRIPT, host_network=False)
    outage.reboot()
    async with connect(outage.socket, outage.logs) as again:
        await recovered(again, container_id)
        status = await exited(again, container_id, 60)
        assert (status.exit_code, status.reason) == (255, "Unknown")
        await again.remove_sandbox(sandbox_id)
        eventually(lambda: not any(outage.leftovers().values()), what="an empty node, also its trash")
        assert await amiss(outage, "cgroup ") == []
