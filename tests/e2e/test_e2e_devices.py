"""Devices over CRI: nodes and their cgroup, directories, links, and those of the Container Device Interface."""

import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import ContainerFields, Cri
from tests.support import refusals

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root]

CODE = grpc.StatusCode
HANDLERS = pytest.mark.parametrize("handler", ["crun", "runc"])


ALLOWED = "No such device or address"  # the device cgroup let it through, and no driver has this number


def unused(directory: Path) -> str:
    """A device with a number that no default rule allows."""
    path = directory / "unused"
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(511, 7))
    return str(path)


async def create(
    cri: Cri, name: str, image: str, handler: str = "", **fields: Unpack[ContainerFields]
) -> str:
    await cri.pull(image)
    sandbox = cri.sandbox_config(name, host_network=True)
    config = cri.container_config("c", image, ["sleep", "1000"], **fields)
    return await cri.create(await cri.run_sandbox(sandbox, handler), config, sandbox)


async def run(cri: Cri, name: str, image: str, handler: str = "", **fields: Unpack[ContainerFields]) -> str:
    container_id = await create(cri, name, image, handler, **fields)
    await cri.start(container_id)
    return container_id


async def shell(cri: Cri, container_id: str, script: str) -> tuple[int, str]:
    answer = await cri.exec(container_id, ["sh", "-c", script])
    return answer.exit_code, (answer.stdout + answer.stderr).decode()


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    """A directory like one of /dev: devices (as /dev/null and /dev/zero), a link to one, one deeper, a file."""
    (tmp_path / "dev/deep").mkdir(parents=True)
    for name, minor in (("null", 3), ("deep/zero", 5)):
        os.mknod(tmp_path / "dev" / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        (tmp_path / "dev" / name).chmod(0o666)
    (tmp_path / "dev/link").symlink_to("null")
    (tmp_path / "dev/file").touch()
    return tmp_path / "dev"


@HANDLERS
async def test_a_directory_of_devices_is_taken_whole(
    cri: Cri, busybox: str, nodes: Path, handler: str
) -> None:
    device = cri_pb.Device(host_path=str(nodes), container_path="/dev/mine", permissions="rw")
    container_id = await run(cri, f"devices-{handler}", busybox, handler, devices=[device])
    code, said = await shell(
        cri, container_id, "find /dev/mine -type c | sort; head -c 2 /dev/mine/deep/zero"
    )
    assert (code, said) == (0, "/dev/mine/deep/zero\n/dev/mine/null\n\0\0")


@HANDLERS
async def test_permissions_are_those_asked_for(cri: Cri, busybox: str, tmp_path: Path, handler: str) -> None:
    device = cri_pb.Device(host_path=unused(tmp_path), container_path="/dev/unused", permissions="r")
    container_id = await run(cri, f"devices-r-{handler}", busybox, handler, devices=[device])
    assert ALLOWED in (await shell(cri, container_id, "exec 3</dev/unused"))[1]
    assert "Operation not permitted" in (await shell(cri, container_id, "exec 3>/dev/unused"))[1]


async def test_a_link_to_a_device_is_the_device(cri: Cri, busybox: str, nodes: Path) -> None:
    device = cri_pb.Device(host_path=str(nodes / "link"), container_path="/dev/linked", permissions="rwm")
    container_id = await run(cri, "devices-link", busybox, devices=[device])
    assert await shell(cri, container_id, "stat -c '%F %t %T' /dev/linked") == (
        0,
        "character special file 1 3\n",
    )


@pytest.mark.parametrize(
    ("host", "permissions", "words"),
    [
        ("absent", "rwm", "devices.host_path: "),
        ("file", "rwm", "is no device"),
        ("null", "rx", "devices.permissions: 'rx'"),
    ],
)
async def test_what_is_no_device_is_refused(
    cri: Cri, busybox: str, nodes: Path, host: str, permissions: str, words: str
) -> None:
    device = cri_pb.Device(host_path=str(nodes / host), container_path="/dev/x", permissions=permissions)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(cri, "devices-bad", busybox, devices=[device])
    assert caught.value.code() is CODE.INVALID_ARGUMENT
    assert words in refusals.told(caught)


@pytest.fixture
def cdi_kind() -> Iterator[tuple[str, Path]]:
    """A kind of our own, and the file for its specification."""
    kind = f"slipway.test/k{secrets.token_hex(4)}"
    path = Path("/var/run/cdi") / f"{kind.replace('/', '-')}.json"
    made = not path.parent.exists()
    path.parent.mkdir(exist_ok=True)
    yield kind, path
    path.unlink(missing_ok=True)
    if made:
        path.parent.rmdir()


@HANDLERS
@pytest.mark.parametrize("by", ["field", "annotation"])
async def test_a_cdi_device_edits_the_container(
    cri: Cri, busybox: str, cdi_kind: tuple[str, Path], tmp_path: Path, handler: str, by: str
) -> None:
    kind, path = cdi_kind
    hook, seen = tmp_path / "hook", tmp_path / "seen"
    hook.write_text(f'#!/bin/sh\n/bin/cat > "{seen}"\n')
    hook.chmod(0o755)
    (tmp_path / "lib").write_text("library\n")
    edits = {
        "env": ["GPU=one"],
        "deviceNodes": [{"path": "/dev/gpu", "hostPath": unused(tmp_path), "permissions": "r"}],
        "mounts": [
            {"hostPath": str(tmp_path / "lib"), "containerPath": "/lib/gpu", "options": ["ro", "bind"]}
        ],
        "hooks": [{"hookName": "createRuntime", "path": str(hook)}],
        "additionalGids": [4711],
    }
    spec = {"cdiVersion": "0.7.0", "kind": kind, "devices": [{"name": "one", "containerEdits": edits}]}
    path.write_text(json.dumps(spec))
    wanted: ContainerFields = {"CDI_devices": [cri_pb.CDIDevice(name=f"{kind}=one")]}
    if by == "annotation":
        wanted = {"annotations": {"cdi.k8s.io/plugin": f"{kind}=one"}}
    container_id = await run(cri, f"cdi-{by}-{handler}", busybox, handler, **wanted)
    script = "echo $GPU; cat /lib/gpu; id -G; stat -c %t:%T /dev/gpu"
    assert await shell(cri, container_id, script) == (0, "one\nlibrary\n0 4711\n1ff:7\n")
    assert ALLOWED in (await shell(cri, container_id, "exec 3</dev/gpu"))[1]
    assert "Operation not permitted" in (await shell(cri, container_id, "exec 3>/dev/gpu"))[1]
    assert (await shell(cri, container_id, "echo > /lib/gpu"))[0] == 1
    assert json.loads(seen.read_text())["id"] == container_id


async def test_an_unknown_cdi_device_is_refused_by_name(
    cri: Cri, busybox: str, cdi_kind: tuple[str, Path]
) -> None:
    kind, path = cdi_kind
    path.write_text("{")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(cri, "cdi-none", busybox, CDI_devices=[cri_pb.CDIDevice(name=f"{kind}=one")])
    assert caught.value.code() is CODE.NOT_FOUND
    assert f"CDI_devices: '{kind}=one' is in none of /etc/cdi, /var/run/cdi" in refusals.told(caught)
    assert str(path) in refusals.told(caught)


@HANDLERS
async def test_no_huge_pages_and_a_bounded_shm_on_any_machine(cri: Cri, busybox: str, handler: str) -> None:
    """A kubelet limits each size that the machine has by 0, also where nothing counts them."""
    sizes = [
        int(path.name[len("hugepages-") : -len("kB")]) for path in Path("/sys/kernel/mm/hugepages").iterdir()
    ]
    names = [f"{kib >> 10}MB" if kib < 1 << 20 else f"{kib >> 20}GB" for kib in sizes if kib >> 10]
    limits = [cri_pb.HugepageLimit(page_size=name) for name in names]
    linux = cri_pb.LinuxContainerConfig(resources=cri_pb.LinuxContainerResources(hugepage_limits=limits))
    container_id = await run(cri, f"huge-{handler}", busybox, handler, linux=linux)
    assert await shell(cri, container_id, "df -k /dev/shm | awk 'END { print $2 }'") == (0, "65536\n")


async def test_huge_pages_of_other_machines_are_refused(cri: Cri, busybox: str) -> None:
    resources = cri_pb.LinuxContainerResources(
        hugepage_limits=[cri_pb.HugepageLimit(page_size="3MB", limit=1)]
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(cri, "huge-bad", busybox, linux=cri_pb.LinuxContainerConfig(resources=resources))
    assert caught.value.code() is CODE.INVALID_ARGUMENT
    assert refusals.told(caught) == "hugepage_limits: page_size '3MB': not of this machine"
