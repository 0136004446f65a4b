"""FEATURES 4.1 and 4.2: connection, sizes, deadlines, codes, and what a kubelet checks of every answer."""

import time
from collections.abc import Awaitable
from functools import partial
from pathlib import Path

import anyio
import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Answer, Cri, Request, connect
from devtools.ports import free_port
from devtools.registry import Registry
from tests.e2e.test_e2e_pods import pod, runs_no_more
from tests.support import refusals
from tests.support.node import TestNode, running_node
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]

CODE = grpc.StatusCode
SIXTEEN_MIB = 16 << 20
UNKNOWN = "feedfacefeedface"


async def code_of(call: Awaitable[Answer]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_version_has_all_four_fields(cri: Cri) -> None:
    answer = await cri.call(cri.runtime.Version, cri_pb.VersionRequest(version="v1"))
    assert (answer.version, answer.runtime_name, answer.runtime_api_version) == ("0.1.0", "slipway", "v1")
    assert answer.runtime_version


async def test_a_node_that_has_just_started_answers_what_a_kubelet_asks_first(
    shop: Registry, tmp_path: Path
) -> None:
    """Version and ImageFsInfo decide whether the kubelet comes up; used bytes and a mount point are looked into."""
    with running_node(tmp_path) as node:
        async with connect(node.socket, node.logs) as cri:
            began = time.monotonic()
            await cri.call(cri.runtime.Version, cri_pb.VersionRequest())
            answer = await cri.call(cri.images.ImageFsInfo, cri_pb.ImageFsInfoRequest())
            assert time.monotonic() - began < 2
            for usage in (*answer.image_filesystems, *answer.container_filesystems):
                assert usage.HasField("used_bytes")
                assert usage.HasField("inodes_used")
                assert Path(usage.fs_id.mountpoint).is_dir()
                assert usage.timestamp > 0
            assert len(answer.image_filesystems) == 1


async def test_image_fs_info_answers_at_once_however_much_there_is(cri: Cri, busybox: str) -> None:
    await cri.pull(busybox)
    began = time.monotonic()
    answer = await cri.call(cri.images.ImageFsInfo, cri_pb.ImageFsInfoRequest())
    assert time.monotonic() - began < 1
    assert answer.image_filesystems[0].used_bytes.value > 0


async def test_messages_of_16_mib_go_both_ways(cri: Cri, busybox: str) -> None:
    """In: a request just below the kubelet's cap. Out: an exec that writes 15 MiB, and a list of as much."""
    _, container_id = await pod(cri, "big", busybox, ["sleep", "1000"])
    command = ["sh", "-c", "head -c 15728640 /dev/zero"]
    assert len((await cri.exec(container_id, command)).stdout) == 15 << 20
    annotations = {f"k{i}": "x" * (1 << 20) for i in range(15)}
    sandbox = cri.sandbox_config("big-list", host_network=True, annotations=annotations)
    assert (15 << 20) < sandbox.ByteSize() < SIXTEEN_MIB
    sandbox_id = await cri.run_sandbox(sandbox)
    listed = await cri.call(cri.runtime.ListPodSandbox, cri_pb.ListPodSandboxRequest())
    assert next(dict(i.annotations) for i in listed.items if i.id == sandbox_id) == annotations


async def test_unknown_ids_are_not_found_where_a_kubelet_takes_that_for_gone(cri: Cri) -> None:
    calls = (
        partial(
            cri.call, cri.runtime.PodSandboxStatus, cri_pb.PodSandboxStatusRequest(pod_sandbox_id=UNKNOWN)
        ),
        partial(cri.call, cri.runtime.PodSandboxStats, cri_pb.PodSandboxStatsRequest(pod_sandbox_id=UNKNOWN)),
        partial(cri.call, cri.runtime.ContainerStatus, cri_pb.ContainerStatusRequest(container_id=UNKNOWN)),
        partial(cri.call, cri.runtime.ContainerStats, cri_pb.ContainerStatsRequest(container_id=UNKNOWN)),
        partial(cri.call, cri.runtime.StartContainer, cri_pb.StartContainerRequest(container_id=UNKNOWN)),
        partial(cri.call, cri.runtime.ExecSync, cri_pb.ExecSyncRequest(container_id=UNKNOWN, cmd=["true"])),
        partial(
            cri.call, cri.runtime.ReopenContainerLog, cri_pb.ReopenContainerLogRequest(container_id=UNKNOWN)
        ),
        partial(
            cri.call,
            cri.runtime.UpdateContainerResources,
            cri_pb.UpdateContainerResourcesRequest(container_id=UNKNOWN),
        ),
    )
    for call in calls:
        assert await code_of(call()) is CODE.NOT_FOUND, call


async def test_stop_and_remove_of_unknown_ids_are_ok(cri: Cri) -> None:
    await cri.call(cri.runtime.StopPodSandbox, cri_pb.StopPodSandboxRequest(pod_sandbox_id=UNKNOWN))
    await cri.call(cri.runtime.RemovePodSandbox, cri_pb.RemovePodSandboxRequest(pod_sandbox_id=UNKNOWN))
    await cri.stop(UNKNOWN, 10)
    await cri.remove(UNKNOWN)
    spec = cri_pb.ImageSpec(image="example.com/never/pulled:tag")
    await cri.call(cri.images.RemoveImage, cri_pb.RemoveImageRequest(image=spec))
    status = await cri.call(cri.images.ImageStatus, cri_pb.ImageStatusRequest(image=spec))
    assert not status.HasField("image")


async def test_an_exec_that_fails_is_no_deadline(cri: Cri, busybox: str) -> None:
    """Probes: a timeout is a failure, any other error is unknown, an exit code is an answer."""
    _, container_id = await pod(cri, "probe", busybox, ["sleep", "1000"])
    missing = await code_of(cri.exec(container_id, ["/nosuch"], timeout_s=10))
    assert missing is CODE.UNKNOWN
    assert (await cri.exec(container_id, ["false"], timeout_s=10)).exit_code == 1
    assert await code_of(cri.exec(container_id, ["sleep", "600"], timeout_s=1)) is CODE.DEADLINE_EXCEEDED
    await cri.stop(container_id, 0)
    assert await code_of(cri.exec(container_id, ["true"], timeout_s=10)) is CODE.FAILED_PRECONDITION


async def test_a_command_whose_caller_has_left_is_ended(cri: Cri, busybox: str) -> None:
    """One without a timeout would live on with nobody to wait for it."""
    _, container_id = await pod(cri, "left-exec", busybox, ["sleep", "1000"])
    request = cri_pb.ExecSyncRequest(container_id=container_id, cmd=["sh", "-c", "sleep 777 & sleep 777"])
    assert await code_of(cri.call(cri.runtime.ExecSync, request, timeout_s=1)) is CODE.DEADLINE_EXCEEDED
    await runs_no_more(cri, container_id, b"777")


async def test_a_registry_that_is_away_is_unknown_with_the_prefix(cri: Cri) -> None:
    reference = f"127.0.0.1:{free_port()}/no/registry:here"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.pull(reference)
    assert caught.value.code() is CODE.UNKNOWN
    assert refusals.told(caught).startswith("RegistryUnavailable")


async def test_creation_joined_by_retries_after_deadlines_gives_one_id(cri: Cri, busybox: str) -> None:
    """A deadline of 5 ms, as a kubelet's of minutes on a slow disk: asked again until it is answered."""
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("impatient")
    Path(sandbox.log_directory).mkdir(parents=True, exist_ok=True)
    run = cri_pb.RunPodSandboxRequest(config=sandbox)
    sandbox_id = (await insist(cri, cri.runtime.RunPodSandbox, run)).pod_sandbox_id
    config = cri.container_config("c", busybox, ["sleep", "1000"])
    request = cri_pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config, sandbox_config=sandbox)
    container_id = (await insist(cri, cri.runtime.CreateContainer, request)).container_id
    assert await cri.run_sandbox(sandbox) == sandbox_id
    assert await cri.create(sandbox_id, config, sandbox) == container_id
    pods = (await cri.call(cri.runtime.ListPodSandbox, cri_pb.ListPodSandboxRequest())).items
    containers = (await cri.call(cri.runtime.ListContainers, cri_pb.ListContainersRequest())).containers
    assert [p.id for p in pods] == [sandbox_id]
    assert [c.id for c in containers] == [container_id]


async def insist(
    cri: Cri, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Answer]", request: Request
) -> Answer:
    """Call with a short deadline until it is met; any other error fails."""
    with anyio.fail_after(patience(60)):
        turn = 0
        while True:
            try:
                return await cri.call(method, request, timeout_s=0.005 * (1 + turn // 50))
            except grpc.aio.AioRpcError as exc:
                assert exc.code() is CODE.DEADLINE_EXCEEDED, exc.details()
            turn += 1


async def listed_sandboxes(cri: Cri) -> list[cri_pb.PodSandbox]:
    return list((await cri.call(cri.runtime.ListPodSandbox, cri_pb.ListPodSandboxRequest())).items)


async def test_a_sandbox_is_made_although_its_caller_has_left(cri: Cri) -> None:
    sandbox = cri.sandbox_config("left-alone")
    request = cri_pb.RunPodSandboxRequest(config=sandbox)
    found: list[cri_pb.PodSandbox] = []
    with anyio.fail_after(patience(20)):
        while not found:
            # on a busy machine the deadline can pass before the call has left this process
            call = cri.call(cri.runtime.RunPodSandbox, request, timeout_s=patience(0.01))
            assert await code_of(call) is CODE.DEADLINE_EXCEEDED
            with anyio.move_on_after(patience(2)):
                while not found:
                    found = await listed_sandboxes(cri)
                    await anyio.sleep(0.02)
    assert found[0].state == cri_pb.SANDBOX_READY
    assert await cri.run_sandbox(sandbox) == found[0].id


async def test_every_answer_has_what_a_kubelet_demands(cri: Cri, node: TestNode, busybox: str) -> None:
    image_id = await cri.pull(busybox)
    sandbox_id, container_id = await pod(cri, "demands", busybox, ["sleep", "1000"], host_network=False)
    request = cri_pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
    sandbox = (await cri.call(cri.runtime.PodSandboxStatus, request)).status
    meta = sandbox.metadata
    assert all((sandbox.id, meta.name, meta.namespace, meta.uid, sandbox.created_at, sandbox.network.ip))
    status = await cri.status(container_id)
    assert all((status.id, status.metadata.name, status.created_at, status.image.image, status.image_ref))
    listed = (await cri.call(cri.runtime.ListContainers, cri_pb.ListContainersRequest())).containers[0]
    images = (await cri.call(cri.images.ListImages, cri_pb.ListImagesRequest())).images
    mine = next(image for image in images if image.id == image_id)
    assert (listed.image_id, listed.image_ref, status.image_id) == (image_id, image_id, image_id)
    assert mine.size > 0
    conditions = (await cri.call(cri.runtime.Status, cri_pb.StatusRequest())).status.conditions
    assert {"RuntimeReady": True, "NetworkReady": True}.items() <= {
        c.type: c.status for c in conditions
    }.items()


async def test_a_pods_status_shows_the_image_that_its_user_named_and_what_it_was(
    cri: Cri, busybox: str
) -> None:
    """A kubelet creates by the id that PullImage has answered, and publishes what ContainerStatus says."""
    image_id = await cri.pull(busybox)
    spec = cri_pb.ImageSpec(image=image_id)
    image = (await cri.call(cri.images.ImageStatus, cri_pb.ImageStatusRequest(image=spec))).image
    sandbox = cri.sandbox_config("named", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    wanted = cri.container_config("c", image_id, ["sleep", "1000"])
    wanted.image.user_specified_image = busybox
    wanted.mounts.add(container_path="/v", image=spec, readonly=True)
    status = await cri.status(await cri.create(sandbox_id, wanted, sandbox))
    assert (status.image.image, status.image_ref, status.image_id) == (
        busybox,
        image.repo_digests[0],
        image_id,
    )
    assert [mount.image.image_ref for mount in status.mounts if mount.container_path == "/v"] == [image_id]
    listed = (await cri.call(cri.runtime.ListContainers, cri_pb.ListContainersRequest())).containers
    assert {(item.image_id, item.image_ref) for item in listed} == {(image_id, image_id)}


async def test_times_are_nanoseconds_and_zero_until_there_is_one(cri: Cri, busybox: str) -> None:
    await cri.pull(busybox)
    before = time.time_ns()
    sandbox = cri.sandbox_config("times", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    container_id = await cri.create(
        sandbox_id, cri.container_config("c", busybox, ["sleep", "1000"]), sandbox
    )
    created = await cri.status(container_id)
    assert before <= created.created_at <= time.time_ns()
    assert (created.started_at, created.finished_at) == (0, 0)
    await cri.start(container_id)
    running = await cri.status(container_id)
    assert running.created_at == created.created_at <= running.started_at <= time.time_ns()
    assert running.finished_at == 0
    await cri.stop(container_id, 0)
    ended = await cri.status(container_id)
    assert ended.started_at == running.started_at <= ended.finished_at <= time.time_ns()
