"""GetContainerEvents, as a kubelet's evented PLEG relies on it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import anyio
import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri
from tests.e2e.test_e2e_pods import pod
from tests.support.node import TestNode
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]

CREATED, STARTED = cri_pb.CONTAINER_CREATED_EVENT, cri_pb.CONTAINER_STARTED_EVENT
STOPPED, DELETED = cri_pb.CONTAINER_STOPPED_EVENT, cri_pb.CONTAINER_DELETED_EVENT
Stream: TypeAlias = "grpc.aio.UnaryStreamCall[cri_pb.GetEventsRequest, cri_pb.ContainerEventResponse]"


@asynccontextmanager
async def listening(cri: Cri) -> AsyncIterator[Stream]:
    """A stream that misses nothing of what happens in the block."""
    stream = cri.runtime.GetContainerEvents(cri_pb.GetEventsRequest())
    try:
        with anyio.fail_after(patience(10)):
            await stream.initial_metadata()
        yield stream
    finally:
        stream.cancel()


async def heard(stream: Stream, count: int) -> list[cri_pb.ContainerEventResponse]:
    events = []
    with anyio.fail_after(patience(20)):
        for _ in range(count):
            event = await stream.read()
            assert isinstance(event, cri_pb.ContainerEventResponse), "the stream has ended"
            events.append(event)
    return events


async def test_a_life_is_told_with_all_statuses_and_in_order(cri: Cri, busybox: str) -> None:
    async with listening(cri) as stream:
        sandbox_id, container_id = await pod(cri, "pleg", busybox, ["sleep", "1000"])
        await cri.stop(container_id)
        await cri.remove(container_id)
        await cri.remove_sandbox(sandbox_id)
        events = await heard(stream, 8)
    assert [(e.container_id, e.container_event_type) for e in events] == [
        (sandbox_id, CREATED),
        (sandbox_id, STARTED),
        (container_id, CREATED),
        (container_id, STARTED),
        (container_id, STOPPED),
        (container_id, DELETED),
        (sandbox_id, STOPPED),
        (sandbox_id, DELETED),
    ]
    assert all(e.pod_sandbox_status.id == sandbox_id and e.pod_sandbox_status.metadata.uid for e in events)
    assert [e.created_at for e in events] == sorted(e.created_at for e in events)
    states = [[status.state for status in e.containers_statuses] for e in events]
    running, ended = [cri_pb.CONTAINER_RUNNING], [cri_pb.CONTAINER_EXITED]
    assert states == [[], [], [cri_pb.CONTAINER_CREATED], running, ended, [], [], []]
    assert events[4].containers_statuses[0].exit_code == 137
    assert events[4].created_at >= events[4].containers_statuses[0].finished_at
    assert events[5].pod_sandbox_status.state == cri_pb.SANDBOX_READY
    assert events[6].pod_sandbox_status.state == cri_pb.SANDBOX_NOTREADY


async def test_a_start_that_fails_is_told_as_a_stop(cri: Cri, busybox: str) -> None:
    async with listening(cri) as stream:
        with pytest.raises(grpc.aio.AioRpcError):
            await pod(cri, "pleg-fails", busybox, ["/no/such/command"])
        last = (await heard(stream, 4))[-1]
    assert last.container_event_type == STOPPED
    assert last.containers_statuses[0].reason == "StartError"


async def test_every_listener_hears_and_nothing_old_comes(cri: Cri, busybox: str) -> None:
    await pod(cri, "pleg-old", busybox, ["sleep", "1000"])
    async with listening(cri) as one, listening(cri) as other:
        sandbox_id, _ = await pod(cri, "pleg-new", busybox, ["sleep", "1000"])
        for stream in (one, other):
            assert {e.pod_sandbox_status.id for e in await heard(stream, 4)} == {sandbox_id}


async def test_events_do_not_wait_for_nats(cri: Cri, node: TestNode, busybox: str) -> None:
    async with listening(cri) as stream:
        node.kill("nats")
        await pod(cri, "pleg-nats", busybox, ["sleep", "1000"])
        assert [e.container_event_type for e in await heard(stream, 4)] == [CREATED, STARTED] * 2


async def test_the_stream_ends_with_its_service_so_that_the_kubelet_lists_again(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    _, container_id = await pod(cri, "pleg-dies", busybox, ["sleep", "1000"])
    async with listening(cri) as stream:
        node.kill("runtimed")
        with pytest.raises(grpc.aio.AioRpcError) as caught, anyio.fail_after(patience(20)):
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    async with listening(cri) as stream:
        await cri.stop(container_id)
        (event,) = await heard(stream, 1)
    assert (event.container_id, event.container_event_type) == (container_id, STOPPED)
