"""FEATURES 4.3 and 4.4: states, and calls that come twice or at once."""

from collections.abc import Awaitable
from typing import TypeVar

import anyio
import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri
from devtools.registry import Registry
from tests.e2e.test_e2e_pods import exited, pod
from tests.support.eventually import until
from tests.support.node import TestNode
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]

CODE = grpc.StatusCode
T = TypeVar("T")


async def made(
    cri: Cri, name: str, image: str, command: list[str]
) -> tuple[str, str, cri_pb.PodSandboxConfig, cri_pb.ContainerConfig]:
    """A container that is CREATED, and its sandbox."""
    await cri.pull(image)
    sandbox = cri.sandbox_config(name, host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    config = cri.container_config("c", image, command)
    return sandbox_id, await cri.create(sandbox_id, config, sandbox), sandbox, config


async def at_once(*calls: Awaitable[T]) -> list[T | grpc.StatusCode]:
    """Each call's answer, or its code."""
    answers: dict[int, T | grpc.StatusCode] = {}

    async def one(index: int, call: Awaitable[T]) -> None:
        try:
            answers[index] = await call
        except grpc.aio.AioRpcError as exc:
            answers[index] = exc.code()

    async with anyio.create_task_group() as group:
        for index, call in enumerate(calls):
            group.start_soon(one, index, call)
    return [answers[index] for index in range(len(calls))]


async def gone(cri: Cri, container_id: str) -> bool:
    try:
        await cri.status(container_id)
    except grpc.aio.AioRpcError as exc:
        return exc.code() is CODE.NOT_FOUND
    return False


async def test_the_same_sandbox_and_container_asked_at_once_are_one(cri: Cri, busybox: str) -> None:
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("joined")
    ids = set(await at_once(*(cri.run_sandbox(sandbox) for _ in range(8))))
    assert len(ids) == 1
    sandbox_id = ids.pop()
    assert isinstance(sandbox_id, str)
    config = cri.container_config("c", busybox, ["sleep", "1000"])
    containers = set(await at_once(*(cri.create(sandbox_id, config, sandbox) for _ in range(8))))
    assert len(containers) == 1
    listed = (await cri.call(cri.runtime.ListContainers, cri_pb.ListContainersRequest())).containers
    assert {item.id for item in listed} == containers


async def test_the_next_attempt_is_another_sandbox_newer_than_the_first(cri: Cri) -> None:
    first_config = cri.sandbox_config("attempts", host_network=True)
    second_config = cri.sandbox_config("attempts", host_network=True)
    second_config.metadata.attempt = 1
    first = await cri.run_sandbox(first_config)
    await cri.call(cri.runtime.StopPodSandbox, cri_pb.StopPodSandboxRequest(pod_sandbox_id=first))
    second = await cri.run_sandbox(second_config)
    items = (await cri.call(cri.runtime.ListPodSandbox, cri_pb.ListPodSandboxRequest())).items
    by_attempt = {item.metadata.attempt: item for item in items}
    assert (by_attempt[0].id, by_attempt[0].state) == (first, cri_pb.SANDBOX_NOTREADY)
    assert (by_attempt[1].id, by_attempt[1].state) == (second, cri_pb.SANDBOX_READY)
    assert by_attempt[0].created_at < by_attempt[1].created_at


async def test_a_created_container_has_no_process_and_a_stop_leaves_it_created(
    cri: Cri, busybox: str
) -> None:
    _, container_id, *_ = await made(cri, "created", busybox, ["true"])
    await cri.stop(container_id, 10)
    assert (await cri.status(container_id)).state == cri_pb.CONTAINER_CREATED
    await cri.start(container_id)
    await cri.stop(container_id, 0)
    assert (await cri.status(container_id)).state == cri_pb.CONTAINER_EXITED
    _, other, *_ = await made(cri, "created-2", busybox, ["true"])
    await cri.stop(other, 10)
    await cri.remove(other)
    assert await gone(cri, other)


async def test_a_second_start_is_refused_and_the_first_goes_on(cri: Cri, busybox: str) -> None:
    _, container_id, *_ = await made(cri, "twice-started", busybox, ["sleep", "1000"])
    await cri.start(container_id)
    before = await cri.status(container_id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.start(container_id)
    assert caught.value.code() is CODE.FAILED_PRECONDITION
    after = await cri.status(container_id)
    assert (after.state, after.started_at) == (cri_pb.CONTAINER_RUNNING, before.started_at)
    await cri.stop(container_id, 0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.start(container_id)
    assert caught.value.code() is CODE.FAILED_PRECONDITION


async def test_starts_at_once_are_one_start(cri: Cri, node: TestNode, busybox: str) -> None:
    _, container_id, *_ = await made(cri, "starts", busybox, ["sh", "-c", "echo once; sleep 1000"])
    answers = await at_once(*(cri.start(container_id) for _ in range(5)))
    assert set(answers) <= {None, CODE.FAILED_PRECONDITION}
    assert None in answers
    await cri.exec(container_id, ["true"])
    await cri.stop(container_id, 0)
    assert (node.logs / "starts" / "c.log").read_text().count("once") == 1


async def test_a_start_during_a_removal_is_refused(cri: Cri, node: TestNode, busybox: str) -> None:
    """The removal waits for snapshotd, which is held meanwhile."""
    import os
    import signal

    _, container_id, *_ = await made(cri, "start-remove", busybox, ["sleep", "1000"])
    snapshotd = node.pid("snapshotd")
    os.kill(snapshotd, signal.SIGSTOP)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(cri.remove, container_id)
            await exited(cri, container_id)  # as one being removed
            with pytest.raises(grpc.aio.AioRpcError, match="removed") as caught:
                await cri.start(container_id)
            assert caught.value.code() is CODE.FAILED_PRECONDITION
            os.kill(snapshotd, signal.SIGCONT)
    finally:
        os.kill(snapshotd, signal.SIGCONT)
    assert await gone(cri, container_id)


async def test_stops_and_removals_may_come_at_once_and_again(cri: Cri, node: TestNode, busybox: str) -> None:
    sandbox_id, container_id = await pod(cri, "at-once", busybox, ["sleep", "1000"], host_network=False)
    stop = cri_pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
    remove = cri_pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
    answers = await at_once(
        *(cri.stop(container_id, 0) for _ in range(3)),
        *(cri.remove(container_id) for _ in range(3)),
        *(cri.call(cri.runtime.StopPodSandbox, stop) for _ in range(3)),
        *(cri.call(cri.runtime.RemovePodSandbox, remove) for _ in range(3)),
    )
    assert not [answer for answer in answers if isinstance(answer, CODE)]
    await cri.stop(container_id, 0)
    await cri.remove(container_id)
    await cri.remove_sandbox(sandbox_id)
    left = [name for names in node.leftovers().values() for name in names]
    assert not [name for name in left if container_id in name or sandbox_id in name]


async def test_the_removal_of_a_running_container_kills_it_and_keeps_its_log(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    _, container_id = await pod(cri, "forced", busybox, ["sh", "-c", "echo here; sleep 1000"])
    await cri.exec(container_id, ["true"])
    await cri.remove(container_id)
    assert await gone(cri, container_id)
    assert (node.logs / "forced" / "c.log").exists()


async def test_the_removal_of_a_sandbox_removes_its_containers(cri: Cri, busybox: str) -> None:
    sandbox_id, container_id = await pod(cri, "whole", busybox, ["sleep", "1000"])
    await cri.call(cri.runtime.RemovePodSandbox, cri_pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))
    assert await gone(cri, container_id)


async def test_a_container_of_a_stopped_sandbox_cannot_be_made_or_started(cri: Cri, busybox: str) -> None:
    sandbox_id, container_id, sandbox, config = await made(cri, "stopped", busybox, ["true"])
    await cri.call(cri.runtime.StopPodSandbox, cri_pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    config.metadata.name = "another"
    for call in (cri.start(container_id), cri.create(sandbox_id, config, sandbox)):
        with pytest.raises(grpc.aio.AioRpcError, match="not ready") as caught:
            await call
        assert caught.value.code() is CODE.FAILED_PRECONDITION


async def test_a_tag_that_moved_is_resolved_again_and_the_same_is_quick(
    cri: Cri, shop: Registry, busybox: str
) -> None:
    from devtools.registry import busybox_layer

    first = shop.push("demo/moving", [busybox_layer()], {"Cmd": ["sh"], "Env": ["TURN=1"]})
    before = await cri.pull(first)
    assert await cri.pull(first) == before
    shop.push("demo/moving", [busybox_layer()], {"Cmd": ["sh"], "Env": ["TURN=2"]})
    after = await cri.pull(first)
    assert after != before
    status = await cri.call(
        cri.images.ImageStatus, cri_pb.ImageStatusRequest(image=cri_pb.ImageSpec(image=first))
    )
    assert status.image.id == after


async def test_events_of_a_life_come_in_order_stamped_after_the_change(cri: Cri, busybox: str) -> None:
    seen: list[cri_pb.ContainerEventResponse] = []

    async def listen() -> None:
        async for event in cri.runtime.GetContainerEvents(cri_pb.GetEventsRequest(), timeout=60):
            seen.append(event)

    with anyio.fail_after(patience(60)):
        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            while not seen:  # an event tells that the stream is open
                await cri.remove_sandbox(
                    await cri.run_sandbox(cri.sandbox_config("knock", host_network=True))
                )
            sandbox_id, container_id = await pod(cri, "told-in-order", busybox, ["sleep", "1000"])
            await cri.stop(container_id, 0)
            await cri.remove(container_id)
            await cri.remove_sandbox(sandbox_id)
            await until(
                lambda: (seen[-1].container_id, seen[-1].container_event_type) == (sandbox_id, 3),
                "the event of the sandbox's end",
            )
            group.cancel_scope.cancel()
    for object_id in (sandbox_id, container_id):
        told = [event.container_event_type for event in seen if event.container_id == object_id]
        assert told == [0, 1, 2, 3]  # CREATED, STARTED, STOPPED, DELETED
    stamps = [event.created_at for event in seen]
    assert stamps == sorted(stamps)
