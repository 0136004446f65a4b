"""Stores that forget: Redis wiped, its log cut short, JetStream wiped. What runs goes on, and the node comes back by itself."""

import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio
import pytest
from redis import Redis

from common.api.cri.v1 import api_pb2 as cri_pb
from common.events.schema import NodeRepaired
from common.records.store import GUARD_S
from devtools.cri import Cri, connect
from devtools.registry import Registry
from slipway.doctor.deep.recorded import history
from tests.e2e.test_e2e_faults import LIFE, begin_anew, events, recovered
from tests.e2e.test_e2e_pods import exited, pod
from tests.support.eventually import eventually, until
from tests.support.node import TestNode, running_node
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]
OWNERS = ("imaged", "snapshotd", "runtimed")


@pytest.fixture(scope="module")
def outage(shop: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNode]:
    with running_node(tmp_path_factory.mktemp("outage")) as running:
        yield running


@pytest.fixture
async def cri(outage: TestNode) -> AsyncIterator[Cri]:
    async with connect(outage.socket, outage.logs) as client:
        yield client
        await client.remove_all()


@contextmanager
def nobody_starts(node: TestNode, name: str) -> Iterator[None]:
    """One process of the node is dead meanwhile, and there again after."""
    with node.without(name) as died:
        yield
    eventually(lambda: node.pid(name) != died, within_s=30, what=f"a new {name}")


async def restarted(node: TestNode, cri: Cri, container_id: str) -> None:
    """Every service that has records is another process now, and answers."""
    for name in OWNERS:
        begin_anew(node, name)
    await recovered(cri, container_id)


async def goes_on(cri: Cri, container_id: str) -> None:
    """It runs, takes commands, and ends with its code."""
    await recovered(cri, container_id)
    assert (await cri.exec(container_id, ["echo", "here"])).stdout == b"here\n"
    await cri.stop(container_id, 10)
    status = await exited(cri, container_id)
    assert (status.exit_code, status.reason) == (7, "Error")


async def repaired(node: TestNode, since_ns: int, *wanted: tuple[str, str]) -> None:
    """Wait until each service has told that it mended something of such an id."""

    async def told() -> bool:
        events = await history(node.state["nats_url"], "testnode")
        repairs = [one.decoded() for one in events if one.at_ns > since_ns]
        return set(wanted) <= {(one.service, one.id) for one in repairs if isinstance(one, NodeRepaired)}

    await until(told, f"repairs of {wanted}")


SCRIPT = ["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"]


@pytest.mark.parametrize("then", ["running", "restarted", pytest.param("guarded", marks=pytest.mark.long)])
async def test_a_wiped_redis_costs_no_container_and_no_image(
    outage: TestNode, cri: Cri, busybox: str, then: str
) -> None:
    sandbox_id, container_id = await pod(cri, f"wiped-{then}", busybox, SCRIPT, host_network=False)
    since_ns = time.time_ns()
    with Redis(unix_socket_path=f"{outage.run_dir}/redis.sock") as redis:
        redis.flushall()
    if then == "restarted":
        await restarted(outage, cri, container_id)
    if then != "running":
        # of events the checker is not asked: they have numbers anew
        assert await outage.differences("event", settle_s=GUARD_S + 10) == []
        images = (await cri.call(cri.images.ListImages, cri_pb.ListImagesRequest())).images
        (image,) = [image.id for image in images if busybox in image.repo_tags]
        runtimed = (("runtimed", sandbox_id), ("runtimed", container_id))
        await repaired(outage, since_ns, *runtimed, ("imaged", image), ("snapshotd", container_id))
    await goes_on(cri, container_id)
    await cri.remove(container_id)
    await cri.remove_sandbox(sandbox_id)
    eventually(lambda: not any(outage.leftovers().values()), what="an empty node, also its trash")


async def test_a_log_of_redis_that_was_cut_short_makes_no_record_lie(
    outage: TestNode, cri: Cri, busybox: str
) -> None:
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
    assert await outage.differences("event") == []
    await goes_on(cri, running)


async def test_a_log_of_redis_that_ends_in_zeros_is_cut_after_its_last_command(
    outage: TestNode, cri: Cri, busybox: str
) -> None:
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
    assert await outage.differences("event") == []
    await goes_on(cri, running)


async def test_a_wiped_jetstream_is_made_again_and_events_go_on(
    outage: TestNode, cri: Cri, busybox: str
) -> None:
    _, container_id = await pod(cri, "no-stream", busybox, SCRIPT)
    with nobody_starts(outage, "nats"):
        shutil.rmtree(outage.data_dir / "nats" / "jetstream")
    since_ns = time.time_ns()
    await goes_on(cri, container_id)
    _, later = await pod(cri, "new-stream", busybox, ["sh", "-c", "exit 3"])
    assert (await exited(cri, later)).exit_code == 3
    with anyio.fail_after(patience(60)):
        assert await events(outage, later, since_ns) == LIFE
    assert await outage.differences("event") == []


async def test_a_boot_that_emptied_run_leaves_what_can_be_removed_and_nothing_else(
    outage: TestNode, cri: Cri, busybox: str
) -> None:
    sandbox_id, container_id = await pod(cri, "boot", busybox, SCRIPT, host_network=False)
    since_ns = time.time_ns()
    outage.reboot()
    async with connect(outage.socket, outage.logs) as again:
        await recovered(again, container_id)
        status = await exited(again, container_id, 60)
        assert (status.exit_code, status.reason) == (255, "Unknown")
        await repaired(outage, since_ns, ("runtimed", sandbox_id), ("snapshotd", container_id))
        await again.remove_sandbox(sandbox_id)
        eventually(lambda: not any(outage.leftovers().values()), what="an empty node, also its trash")
        assert await outage.differences("event") == []
