"""Images and volumes whose links lead out: nothing of the node is touched, and links within still work."""

import subprocess
import sys
import tarfile
from pathlib import Path

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from common.sys.mounts import mount_points
from devtools.registry import Layer, busybox_layer, directory, layer

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]

HANDLERS = pytest.mark.parametrize("handler", ["crun", "runc"])
UP = "../" * 12


def links(**targets: str) -> Layer:
    """A layer that replaces entries at the root by symbolic links."""
    entries = []
    for name, target in targets.items():
        made = tarfile.TarInfo(name.replace("__", "/"))
        made.type, made.linkname = tarfile.SYMTYPE, target
        entries.append(made)
    return layer(entries)


async def start(cri, name: str, image: str, handler: str, command: list[str], **fields) -> str:
    await cri.pull(image)
    sandbox = cri.sandbox_config(name, host_network=True)
    config = cri.container_config("c", image, command, **fields)
    container_id = await cri.create(await cri.run_sandbox(sandbox, handler), config, sandbox)
    await cri.start(container_id)
    return container_id


async def shell(cri, container_id: str, script: str) -> str:
    answer = await cri.exec(container_id, ["/bin/busybox", "sh", "-c", script])
    return (answer.stdout + answer.stderr).decode()


@HANDLERS
@pytest.mark.parametrize("name", ["etc", "dev", "proc", "sys", "data"])
async def test_links_of_an_image_in_the_way_of_mounts_lead_nowhere(
    cri, shop, tmp_path: Path, handler: str, name: str
) -> None:
    """CVE-2024-5154, CVE-2025-31133, CVE-2025-52565: /etc, /dev, /proc … as links to a directory of the node."""
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    image = shop.push(f"demo/links-{name}", [busybox_layer(), links(**{name: f"{UP}{outside}"})], {})
    fields = {
        "mounts": [cri_pb.Mount(container_path="/data/deep/new", host_path=str(tmp_path / "volume"))],
        "devices": [cri_pb.Device(host_path="/dev/null", container_path="/data/null", permissions="rw")],
    }
    try:
        container_id = await start(
            cri, f"links-{name}-{handler}", image, handler, ["/bin/busybox", "sleep", "99"], **fields
        )
        assert str(outside) not in await shell(cri, container_id, f"cat {outside}/* 2>/dev/null")
    except grpc.aio.AioRpcError as refused:
        assert refused.code() is not grpc.StatusCode.INTERNAL
    assert [str(path.relative_to(outside)) for path in outside.rglob("*")] == ["deep"]
    assert [point for point, _ in mount_points() if str(outside) in point] == []


@HANDLERS
async def test_links_within_an_image_are_followed_to_their_place(
    cri, shop, tmp_path: Path, handler: str
) -> None:
    """As /var/run is a link to /run in most images, and service account tokens are mounted below it."""
    (tmp_path / "token").write_text("secret\n")
    image = shop.push(
        "demo/links-within", [busybox_layer(), layer([directory("run")]), links(var__run="/run")], {}
    )
    path = "/var/run/secrets/kubernetes.io/serviceaccount"
    mount = cri_pb.Mount(container_path=path, host_path=str(tmp_path), readonly=True)
    container_id = await start(cri, f"within-{handler}", image, handler, ["sleep", "99"], mounts=[mount])
    assert await shell(cri, container_id, f"cat {path}/token /run/secrets/*/*/token") == "secret\nsecret\n"


FLIP = """
import ctypes, sys
exchange = ctypes.CDLL(None).renameat2
one, other = (name.encode() for name in sys.argv[1:])
while not exchange(-100, one, -100, other, 2):
    pass
"""


@HANDLERS
async def test_a_volume_whose_links_flip_while_it_is_mounted_into_leads_nowhere(
    cri, busybox, tmp_path: Path, handler: str
) -> None:
    """CVE-2021-30465, CVE-2024-45310: a directory in a shared volume becomes a link out of it and back."""
    shared, outside, inner = (tmp_path / name for name in ("shared", "outside", "inner"))
    for made in (shared / "d", outside, inner):
        made.mkdir(parents=True)
    (shared / "l").symlink_to(f"{UP}{outside}")
    mounts = [
        cri_pb.Mount(container_path="/v", host_path=str(shared)),
        cri_pb.Mount(container_path="/v/d", host_path=str(inner)),
        cri_pb.Mount(container_path="/v/d/made/deep", host_path=str(inner)),
    ]
    with subprocess.Popen([sys.executable, "-c", FLIP, shared / "d", shared / "l"]) as flipping:
        for number in range(8):
            name = f"flip-{handler}-{number}"
            try:
                await start(cri, name, busybox, handler, ["sleep", "99"], mounts=mounts)
            except grpc.aio.AioRpcError as refused:
                # losing the race is no fault
                assert refused.code() is grpc.StatusCode.UNKNOWN, refused.details()
        assert flipping.poll() is None
        flipping.kill()
    made = list(outside.rglob("*"))
    # runc before 1.1.14 can be raced into making empty directories, and nothing more: CVE-2024-45310
    assert all(path.is_dir() for path in made) if handler == "runc" else made == []
    assert [point for point, _ in mount_points() if str(tmp_path) in point] == []
