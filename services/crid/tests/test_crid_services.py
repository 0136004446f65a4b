"""CRI over crid's own socket, as a kubelet speaks it."""

import json
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.api.cri.v1 import api_pb2_grpc as rpc
from common.clients.imaged import ImagedClient
from devtools.registry import ARCHITECTURE, file, layer
from tests.support.pace import patience

from .conftest import Front

pytestmark = [pytest.mark.anyio, pytest.mark.root, pytest.mark.integration]
TIMEOUT_S = 30


def spec(reference: str) -> cri.ImageSpec:
    return cri.ImageSpec(image=reference)


async def pull(images: "rpc.ImageServiceAsyncStub", reference: str) -> str:
    request = cri.PullImageRequest(image=spec(reference))
    return (await images.PullImage(request, timeout=TIMEOUT_S)).image_ref


async def test_version_has_all_four_fields(runtime: "rpc.RuntimeServiceAsyncStub") -> None:
    answer = await runtime.Version(cri.VersionRequest(version="0.1.0"), timeout=TIMEOUT_S)
    assert (answer.version, answer.runtime_name, answer.runtime_api_version) == ("0.1.0", "slipway", "v1")
    assert answer.runtime_version


async def test_the_socket_is_for_root_and_its_group(
    front: Front, runtime: "rpc.RuntimeServiceAsyncStub"
) -> None:
    assert stat.S_IMODE(Path(front.socket).stat().st_mode) == 0o660


async def test_an_image_is_pulled_shown_and_removed(
    front: Front, images: "rpc.ImageServiceAsyncStub"
) -> None:
    image_id = await pull(images, front.busybox)
    assert image_id.startswith("sha256:")
    for reference in (front.busybox, image_id, image_id.partition(":")[2][:12]):
        status = await images.ImageStatus(cri.ImageStatusRequest(image=spec(reference)), timeout=TIMEOUT_S)
        assert status.image.id == image_id
        assert not status.info
        assert status.image.size > 0
        assert list(status.image.repo_tags) == [front.busybox]
        assert status.image.repo_digests[0].startswith(f"{front.registry}/demo/busybox@sha256:")
    found = (await images.ListImages(cri.ListImagesRequest(), timeout=TIMEOUT_S)).images
    assert [image.id for image in found] == [image_id]
    streamed = images.StreamImages(cri.StreamImagesRequest(), timeout=TIMEOUT_S)
    assert [image.id async for message in streamed for image in message.images] == [image_id]
    for _ in range(2):  # removing is idempotent
        await images.RemoveImage(cri.RemoveImageRequest(image=spec(front.busybox)), timeout=TIMEOUT_S)
    assert not (await images.ListImages(cri.ListImagesRequest(), timeout=TIMEOUT_S)).images


async def test_a_list_with_a_filter_has_one_row_or_none(
    front: Front, images: "rpc.ImageServiceAsyncStub"
) -> None:
    await pull(images, front.busybox)
    for reference, rows in ((front.busybox, 1), ("no.such/image:1", 0)):
        wanted = cri.ImageFilter(image=spec(reference))
        answer = await images.ListImages(cri.ListImagesRequest(filter=wanted), timeout=TIMEOUT_S)
        assert len(answer.images) == rows


async def test_an_image_for_another_platform_is_absent_unless_asked_for_by_id(
    front: Front, images: "rpc.ImageServiceAsyncStub", runtime: "rpc.RuntimeServiceAsyncStub"
) -> None:
    entries = [layer([file("a", b"a")])]
    name = front.shop.push("demo/two", entries, {}, architectures=(ARCHITECTURE, "s390x"))
    imaged = ImagedClient(str(Path(front.socket).with_name("imaged.sock")))
    [*_, last] = [progress async for progress in imaged.pull(name, platform="linux/s390x")]
    foreign, [by_digest] = last.image.id, last.image.repo_digests
    for reference in (name, by_digest):
        status = await images.ImageStatus(cri.ImageStatusRequest(image=spec(reference)), timeout=TIMEOUT_S)
        assert not status.HasField("image")
        wanted = cri.ListImagesRequest(filter=cri.ImageFilter(image=spec(reference)))
        assert not (await images.ListImages(wanted, timeout=TIMEOUT_S)).images
        request = cri.CreateContainerRequest(
            pod_sandbox_id="x", config=cri.ContainerConfig(image=spec(reference))
        )
        with pytest.raises(grpc.aio.AioRpcError, match="on this node for linux/s390x alone"):
            await runtime.CreateContainer(request, timeout=TIMEOUT_S)
    for reference in (foreign, foreign.partition(":")[2][:12]):
        status = await images.ImageStatus(cri.ImageStatusRequest(image=spec(reference)), timeout=TIMEOUT_S)
        assert status.image.id == foreign
    native = await pull(images, name)
    for reference in (name, by_digest):
        status = await images.ImageStatus(cri.ImageStatusRequest(image=spec(reference)), timeout=TIMEOUT_S)
        assert status.image.id == native != foreign
    for each in (native, foreign):
        await images.RemoveImage(cri.RemoveImageRequest(image=spec(each)), timeout=TIMEOUT_S)
    await imaged.close()


async def test_verbose_status_has_the_config(front: Front, images: "rpc.ImageServiceAsyncStub") -> None:
    await pull(images, front.busybox)
    request = cri.ImageStatusRequest(image=spec(front.busybox), verbose=True)
    info = json.loads((await images.ImageStatus(request, timeout=TIMEOUT_S)).info["info"])
    assert info["imageSpec"]["config"]["Cmd"] == ["sh"]


async def test_the_status_of_an_absent_image_is_empty(images: "rpc.ImageServiceAsyncStub") -> None:
    request = cri.ImageStatusRequest(image=spec("no.such/image:1"))
    assert not (await images.ImageStatus(request, timeout=TIMEOUT_S)).HasField("image")


async def test_a_pull_of_what_is_not_there_names_it(
    front: Front, images: "rpc.ImageServiceAsyncStub"
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await pull(images, f"{front.registry}/no/such:thing")
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    assert "no/such" in (error.value.details() or "")


async def test_fs_info_answers_at_once_with_both_filesystems(
    front: Front, images: "rpc.ImageServiceAsyncStub"
) -> None:
    await pull(images, front.busybox)
    answer = await images.ImageFsInfo(cri.ImageFsInfoRequest(), timeout=2)
    assert len(answer.image_filesystems) == len(answer.container_filesystems) == 1
    assert answer.image_filesystems[0].used_bytes.value > 0
    for usage in (answer.image_filesystems[0], answer.container_filesystems[0]):
        assert usage.timestamp > 0
        assert Path(usage.fs_id.mountpoint).is_dir()


async def test_a_container_of_an_absent_image_is_refused_by_name(
    runtime: "rpc.RuntimeServiceAsyncStub",
) -> None:
    config = cri.ContainerConfig(image=spec("no.such/image:1"))
    request = cri.CreateContainerRequest(pod_sandbox_id="x", config=config)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await runtime.CreateContainer(request, timeout=TIMEOUT_S)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    assert "no.such/image:1" in (error.value.details() or "")


async def test_empty_references_are_refused(
    runtime: "rpc.RuntimeServiceAsyncStub", images: "rpc.ImageServiceAsyncStub"
) -> None:
    calls: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: runtime.CreateContainer(cri.CreateContainerRequest(), timeout=TIMEOUT_S),
        lambda: images.ImageStatus(cri.ImageStatusRequest(), timeout=TIMEOUT_S),
        lambda: images.PullImage(cri.PullImageRequest(), timeout=TIMEOUT_S),
        lambda: images.RemoveImage(cri.RemoveImageRequest(), timeout=TIMEOUT_S),
    )
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call()
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_streams_that_cannot_work_are_refused_by_name(runtime: "rpc.RuntimeServiceAsyncStub") -> None:
    calls: tuple[tuple[Callable[[], Awaitable[object]], str], ...] = (
        (lambda: runtime.Exec(cri.ExecRequest(cmd=["x"]), timeout=TIMEOUT_S), "none is asked for"),
        (lambda: runtime.Exec(cri.ExecRequest(stdout=True), timeout=TIMEOUT_S), "cmd: is empty"),
        (
            lambda: runtime.Attach(cri.AttachRequest(tty=True, stderr=True), timeout=TIMEOUT_S),
            "tty and stderr",
        ),
        (lambda: runtime.PortForward(cri.PortForwardRequest(port=[70000]), timeout=TIMEOUT_S), "70000"),
    )
    for call, words in calls:
        with pytest.raises(grpc.aio.AioRpcError, match=words) as error:
            await call()
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_call_for_an_absent_runtimed_ends_with_its_deadline(
    runtime: "rpc.RuntimeServiceAsyncStub",
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await runtime.ListContainers(cri.ListContainersRequest(), timeout=0.5)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_an_absent_runtimed_is_unavailable_long_before_a_kubelets_deadline(
    runtime: "rpc.RuntimeServiceAsyncStub",
) -> None:
    with (
        anyio.fail_after(patience(50)),
        pytest.raises(grpc.aio.AioRpcError, match=r"runtimed\.sock") as error,
    ):
        await runtime.ListContainers(cri.ListContainersRequest(), timeout=120)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
