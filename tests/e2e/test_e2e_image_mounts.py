"""Images as volumes over CRI: read-only, by sub path, confined, there as long as the container is."""

import json
import tarfile
from typing import TypedDict, Unpack

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri
from devtools.registry import Registry, busybox_layer, directory, file, layer
from tests.e2e.test_e2e_faults import recovered
from tests.support import refusals
from tests.support.eventually import eventually
from tests.support.node import TestNode

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root]

CODE = grpc.StatusCode


def symlink(name: str, target: str) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = tarfile.SYMTYPE, target
    return made


@pytest.fixture(scope="module")
def data_image(shop: Registry) -> str:
    """An image with data, a program, and links that would lead out."""
    below = layer([directory("etc"), file("etc/passwd", b"of the image\n"), file("gone", b"x")])
    above = layer(
        [
            file(".wh.gone", b""),
            file("run", b"#!/bin/sh\necho ran\n", 0o755),
            symlink("absolute", "/etc/passwd"),
            symlink("upwards", "../../../../../../etc"),
            symlink("nowhere", "/nonexistent"),
        ]
    )
    return shop.push("demo/data", [below, above], {})


class Fields(TypedDict, total=False):
    """Of a mount, but for its image and where it is mounted."""

    host_path: str
    readonly: bool
    image_sub_path: str
    mount_options: list[str]


def volume(image: str, path: str = "/v", **fields: Unpack[Fields]) -> cri_pb.Mount:
    wanted: Fields = {"readonly": True, **fields}
    return cri_pb.Mount(container_path=path, image=cri_pb.ImageSpec(image=image), **wanted)


async def create(cri: Cri, name: str, image: str, *mounts: cri_pb.Mount, handler: str = "") -> str:
    await cri.pull(image)
    sandbox = cri.sandbox_config(name, host_network=True)
    config = cri.container_config("c", image, ["sleep", "1000"], mounts=mounts)
    return await cri.create(await cri.run_sandbox(sandbox, handler), config, sandbox)


async def run(cri: Cri, name: str, image: str, *mounts: cri_pb.Mount, handler: str = "") -> str:
    container_id = await create(cri, name, image, *mounts, handler=handler)
    await cri.start(container_id)
    return container_id


async def shell(cri: Cri, container_id: str, script: str) -> tuple[int, str]:
    answer = await cri.exec(container_id, ["sh", "-c", script])
    return answer.exit_code, (answer.stdout + answer.stderr).decode()


def left_of(node: TestNode, container_id: str) -> list[str]:
    found = node.leftovers()
    return [name for kind in ("mounts", "snapshots") for name in found[kind] if container_id in name]


@pytest.mark.parametrize("handler", ["crun", "runc"])
async def test_an_image_is_mounted_read_only_and_goes(
    cri: Cri, node: TestNode, busybox: str, data_image: str, handler: str
) -> None:
    image_id = await cri.pull(data_image)
    container_id = await run(cri, f"image-{handler}", busybox, volume(data_image), handler=handler)
    assert await shell(cri, container_id, "cat /v/etc/passwd; /v/run") == (0, "of the image\nran\n")
    assert (await shell(cri, container_id, "ls /v/gone"))[0] == 1
    code, said = await shell(cri, container_id, "touch /v/x; chmod 777 /v")
    assert (code, said.count("Read-only file system")) == (1, 2)
    told = (await cri.status(container_id)).mounts[0]
    assert (told.container_path, told.image.image, told.image.image_ref) == ("/v", data_image, image_id)
    assert len(left_of(node, container_id)) == 4  # a mount and a snapshot for the root and for the image
    await cri.remove(container_id)
    assert left_of(node, container_id) == []


async def test_a_sub_path_is_resolved_within_the_image(cri: Cri, busybox: str, data_image: str) -> None:
    await cri.pull(data_image)
    container_id = await run(
        cri,
        "image-sub",
        busybox,
        volume(data_image, "/directory", image_sub_path="etc"),
        volume(data_image, "/file", image_sub_path="etc/passwd"),
        volume(data_image, "/absolute", image_sub_path="absolute"),
        volume(data_image, "/upwards", image_sub_path="upwards/passwd"),
    )
    script = "cat /directory/passwd /file /absolute /upwards"
    assert await shell(cri, container_id, script) == (0, "of the image\n" * 4)


@pytest.mark.parametrize("path", ["missing", "etc/passwd/below", "nowhere"])
async def test_a_missing_sub_path_has_the_kubelets_prefix(
    cri: Cri, node: TestNode, busybox: str, data_image: str, path: str
) -> None:
    await cri.pull(data_image)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(cri, "image-miss", busybox, volume(data_image, image_sub_path=path))
    assert caught.value.code() is CODE.UNKNOWN
    assert refusals.told(caught).startswith("ImageVolumeMountFailed: mounts.image_sub_path: ")
    assert repr(path) in refusals.told(caught)
    assert node.leftovers()["snapshots"] == []


async def test_options_are_for_images_too(cri: Cri, busybox: str, data_image: str) -> None:
    await cri.pull(data_image)
    container_id = await run(cri, "image-noexec", busybox, volume(data_image, mount_options=["noexec"]))
    assert (await shell(cri, container_id, "/v/run"))[0] == 126


async def test_an_image_that_is_not_here_is_not_found(cri: Cri, busybox: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(cri, "image-none", busybox, volume("registry.test/none:1"))
    assert caught.value.code() is CODE.NOT_FOUND
    assert "'registry.test/none:1' is not on this node" in refusals.told(caught)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"readonly": False}, "mounts.readonly"),
        ({"host_path": "/tmp"}, "mounts.host_path"),
        ({"image_sub_path": "../etc"}, "mounts.image_sub_path"),
    ],
)
async def test_what_no_image_mount_can_have_is_refused(
    cri: Cri, busybox: str, fields: Fields, words: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(cri, "image-bad", busybox, volume(busybox, **fields))
    assert caught.value.code() is CODE.INVALID_ARGUMENT
    assert words in refusals.told(caught)


async def test_a_mounted_image_outlives_its_removal_and_runtimeds(
    cri: Cri, node: TestNode, busybox: str, data_image: str
) -> None:
    await cri.pull(data_image)
    container_id = await run(cri, "image-held", busybox, volume(data_image))
    request = cri_pb.RemoveImageRequest(image=cri_pb.ImageSpec(image=data_image))
    await cri.call(cri.images.RemoveImage, request)
    assert await shell(cri, container_id, "cat /v/etc/passwd") == (0, "of the image\n")
    died = node.kill("runtimed")
    eventually(lambda: node.pid("runtimed") != died, within_s=30, what="a new runtimed")
    await recovered(cri, container_id)
    assert await shell(cri, container_id, "cat /v/etc/passwd") == (0, "of the image\n")
    await cri.remove(container_id)
    assert left_of(node, container_id) == []


@pytest.mark.parametrize("path", ["/../../etc", "/v/../../etc"])
async def test_a_volume_of_an_image_cannot_lead_out(
    cri: Cri, node: TestNode, shop: Registry, path: str
) -> None:
    """CVE-2022-23648."""
    image = shop.push("demo/outside", [busybox_layer()], {"Volumes": {path: {}}})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(cri, "volume-out", image)
    assert caught.value.code() is CODE.INVALID_ARGUMENT
    assert path in refusals.told(caught)
    assert node.leftovers()["records"] == [
        name for name in node.leftovers()["records"] if name in node.leftovers()["sandboxes"]
    ]


@pytest.mark.parametrize("path", ["/proc", "/proc/self/attr", "/around/self"])
async def test_a_volume_of_an_image_cannot_lie_in_proc(cri: Cri, shop: Registry, path: str) -> None:
    """CVE-2019-16884: what is there in place of the kernel's files makes a confinement that never was."""
    links = layer([symlink("around", "a/../to"), symlink("to", "/../proc")])
    image = shop.push("demo/kernels", [busybox_layer(), links], {"Volumes": {path: {}}})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(cri, "volume-proc", image)
    assert caught.value.code() is CODE.INVALID_ARGUMENT
    assert path in refusals.told(caught)


async def test_a_volume_behind_a_link_is_filled_from_the_image(cri: Cri, shop: Registry) -> None:
    """CVE-2022-23648: a link of the image leads nowhere but into the image."""
    links = layer([symlink("out", "/etc"), symlink("up", "../../../../../../../etc")])
    image = shop.push("demo/linked", [busybox_layer(), links], {"Volumes": {"/out": {}, "/up": {}}})
    container_id = await run(cri, "volume-link", image)
    code, said = await shell(cri, container_id, "cat /etc/passwd; ls /etc")
    assert code == 0
    assert "nobody:x:65534" in said
    assert "shadow" not in said


async def test_an_artifact_is_listed_and_mounted_and_not_run(
    cri: Cri, node: TestNode, shop: Registry, busybox: str
) -> None:
    kind = "application/vnd.example.model"
    files = {"model.bin": b"m" * 1000, "conf/a.json": b"{}\n"}
    artifact = shop.push_artifact("demo/artifact", kind, files)
    artifact_id = await cri.pull(artifact)
    listed = {
        image.id: image
        for image in (await cri.call(cri.images.ListImages, cri_pb.ListImagesRequest())).images
    }
    assert list(listed[artifact_id].repo_tags) == [artifact]
    container_id = await run(
        cri, "artifact", busybox, volume(artifact), volume(artifact, "/one", image_sub_path="conf/a.json")
    )
    assert await shell(cri, container_id, "cat /v/conf/a.json /one; wc -c < /v/model.bin") == (
        0,
        "{}\n{}\n1000\n",
    )
    code, said = await shell(cri, container_id, "echo x > /v/model.bin")
    assert (code, "Read-only file system" in said) == (1, True)
    sandbox = cri.sandbox_config("artifact-run", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.create(sandbox_id, cri.container_config("c", artifact, ["x"]), sandbox)
    assert caught.value.code() is CODE.INVALID_ARGUMENT
    assert f"is an artifact of type {kind!r}: it can be mounted as a volume, not run" in refusals.told(caught)
    told = json.loads(node.slipway("image", "inspect", artifact).stdout)[0]
    assert (told["ArtifactType"], told["Id"]) == (kind, artifact_id)
    refused = node.slipway("rmi", artifact)
    assert (refused.returncode, "a container uses it" in refused.stderr) == (1, True)
    await cri.remove(container_id)
    assert node.slipway("rmi", artifact).returncode == 0
