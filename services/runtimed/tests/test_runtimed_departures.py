"""Pods that go by themselves: when nobody starts what was to be started at once, and not when it may be started later."""

from collections.abc import Iterator

import msgspec
import pytest
from redis import Redis

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import UnavailableError
from common.records import keys
from runtimed.record import ContainerRecord, SandboxRecord
from runtimed.use.sandbox.departures import FORSAKEN_NS
from services.runtimed.tests.daemons import DEADLINE_S, Daemons, Pods, needs, running_daemons
from tests.support.eventually import until

pytestmark = needs("crun")


@pytest.fixture(scope="module")
def daemons() -> Iterator[Daemons]:
    with running_daemons(reconcile_every_s="0.2") as found:
        yield found


async def _pod(pods: Pods, config: cri.PodSandboxConfig, *, remove_unstarted: bool) -> str:
    """A pod that goes when what is in it has ended."""
    wanted = pb.RunSandboxRequest(
        request=cri.RunPodSandboxRequest(config=config), remove_ended=True, remove_unstarted=remove_unstarted
    )
    return str((await pods.client.stub.RunSandbox(wanted, timeout=DEADLINE_S)).pod_sandbox_id)


async def _made(pods: Pods, *, remove_unstarted: bool) -> tuple[str, str]:
    """Such a pod, and a container in it."""
    config = pods.sandbox_config()
    sandbox_id = await _pod(pods, config, remove_unstarted=remove_unstarted)
    container = pods.container_config("true")
    return sandbox_id, await pods.client.create_container(sandbox_id, container, config, pods.image())


async def _gone(pods: Pods, sandbox_id: str) -> None:
    async def it_is() -> bool:
        shown = await pods.client.stub.Overview(pb.OverviewRequest(), timeout=DEADLINE_S)
        return sandbox_id not in [entry.pod.id for entry in shown.pods]

    await until(it_is, f"sandbox {sandbox_id} to go", but=UnavailableError)


KINDS: dict[str, type[SandboxRecord | ContainerRecord]] = {
    "sandbox": SandboxRecord,
    "container": ContainerRecord,
}


def _age(pods: Pods, kind: str, *ids: str) -> None:
    """Have runtimed start anew, with what was made long ago."""
    pods.daemons.kill("runtimed")
    with Redis.from_url(pods.daemons.redis.url) as redis:
        for one in ids:
            key = keys.record_key("testnode", "runtimed", kind, one)
            record = msgspec.msgpack.decode(redis.hget(key, "record"), type=KINDS[kind])
            older = msgspec.structs.replace(record, created_at_ns=record.created_at_ns - 2 * FORSAKEN_NS)
            redis.hset(key, "record", msgspec.msgpack.encode(older))
    pods.daemons.start("runtimed")


async def test_what_was_made_to_be_started_later_does_not_go_with_time(pods: Pods) -> None:
    (later, container_id), (forsaken, other_id) = [
        await _made(pods, remove_unstarted=at_once) for at_once in (False, True)
    ]
    _age(pods, "container", container_id, other_id)
    await _gone(pods, forsaken)
    await pods.reconciled()
    await pods.client.start_container(container_id)
    await _gone(pods, later)


async def test_nor_when_who_kept_it_leaves_before_its_start(pods: Pods) -> None:
    (later, container_id), (forsaken, other_id) = [
        await _made(pods, remove_unstarted=at_once) for at_once in (False, True)
    ]
    for kept_id in (container_id, other_id):
        keeper = pods.client.stub.KeepContainer(pb.KeepContainerRequest(container_id=kept_id))
        async for _ in keeper:
            break
        keeper.cancel()
    await _gone(pods, forsaken)
    await pods.client.start_container(container_id)
    await _gone(pods, later)


async def test_a_pod_whose_maker_died_before_its_container_was_made_goes(pods: Pods) -> None:
    forsaken = await _pod(pods, pods.sandbox_config(), remove_unstarted=True)
    _age(pods, "sandbox", forsaken)
    await _gone(pods, forsaken)


async def test_who_removes_what_goes_by_itself_meanwhile_is_told_of_no_error(pods: Pods) -> None:
    for _ in range(12):
        config = pods.sandbox_config()
        sandbox_id = await _pod(pods, config, remove_unstarted=False)
        container = pods.container_config("sleep", "1000")
        container_id = await pods.client.create_container(sandbox_id, container, config, pods.image())
        await pods.client.start_container(container_id)
        await pods.client.remove_container(container_id)
        await pods.client.stop_sandbox(sandbox_id)
        await pods.client.remove_sandbox(sandbox_id)
