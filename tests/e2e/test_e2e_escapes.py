"""Images and volumes whose links lead out: nothing of the node is touched, and links within still work."""

import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Unpack

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from common.sys.mountinfo import mount_points
from devtools.cri import ContainerFields, Cri
from devtools.registry import Layer, Registry, busybox_layer, directory, layer
from slipway.options.security import MASKED_PATHS, READONLY_PATHS
from tests.e2e.test_e2e_sockets import unix_sockets
from tests.support.node import TestNode

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


async def start(
    cri: Cri, name: str, image: str, handler: str, command: list[str], **fields: Unpack[ContainerFields]
) -> str:
    await cri.pull(image)
    sandbox = cri.sandbox_config(name, host_network=True)
    config = cri.container_config("c", image, command, **fields)
    container_id = await cri.create(await cri.run_sandbox(sandbox, handler), config, sandbox)
    await cri.start(container_id)
    return container_id


async def shell(cri: Cri, container_id: str, script: str) -> str:
    answer = await cri.exec(container_id, ["/bin/busybox", "sh", "-c", script])
    return (answer.stdout + answer.stderr).decode()


@HANDLERS
@pytest.mark.parametrize("name", ["etc", "dev", "proc", "sys", "data"])
async def test_links_of_an_image_in_the_way_of_mounts_lead_nowhere(
    cri: Cri, shop: Registry, tmp_path: Path, handler: str, name: str
) -> None:
    """CVE-2024-5154, CVE-2025-31133, CVE-2025-52565: /etc, /dev, /proc … as links to a directory of the node."""
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    image = shop.push(f"demo/links-{name}", [busybox_layer(), links(**{name: f"{UP}{outside}"})], {})
    fields: ContainerFields = {
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
    cri: Cri, shop: Registry, tmp_path: Path, handler: str
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
    cri: Cri, busybox: str, tmp_path: Path, handler: str
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
    left = list(outside.rglob("*"))
    # runc before 1.1.14 can be raced into making empty directories, and nothing more: CVE-2024-45310
    assert all(path.is_dir() for path in left) if handler == "runc" else left == []
    assert [point for point, _ in mount_points() if str(tmp_path) in point] == []


OUTWARD = """
for path in $SOCKETS; do
    for root in "" /proc/1/root /proc/$SHIM/root /proc/$SHIM/cwd; do
        test -e $root$path && echo "$root$path is there"
    done
done
for path in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/vm/panic_on_oom \\
        /proc/sys/fs/binfmt_misc/register /sys/kernel/uevent_helper /sys/kernel/mm/transparent_hugepage/enabled \\
        $(find /sys/fs/cgroup/ -name cgroup.procs -o -name release_agent -o -name '*.max') \\
        /proc/$SHIM/mem /proc/$SHIM/fd/0 /dev/mem /dev/kmsg; do
    test -e $path && (: >>$path) && echo "$path can be written"
done
for path in /proc/kcore /proc/$SHIM/mem /proc/$SHIM/environ /proc/$SHIM/maps /proc/$SHIM/fd/0; do
    head -c 1 $path | grep -q . && echo "$path can be read"
done
for directory in $(find /sys/fs/cgroup/ -name cgroup.procs -exec dirname {} ';'); do
    mkdir $directory/made && echo "$directory has a new cgroup"
done
mount -t cgroup2 none /home && echo "cgroups can be mounted"
mount -t proc none /home && echo "proc can be mounted"
mount -o remount,rw /sys/fs/cgroup && echo "cgroups can be mounted anew"
mount -o remount,rw,bind /proc/sys && echo "sysctls can be mounted anew"
mknod /disk b 8 0 && (: <>/disk) && echo "a disk can be opened"
nsenter -t $SHIM -m true && echo "the namespaces of the shim can be entered"
"""
"""What leads to the node from a container; a file is opened to be written, and nothing is written. Says what works."""


@pytest.mark.parametrize("shares", ["", "pid", "network"])
async def test_a_container_reaches_no_socket_shim_cgroup_or_setting_of_the_node(
    cri: Cri, node: TestNode, busybox: str, shares: str
) -> None:
    await cri.pull(busybox)
    sandbox = cri.sandbox_config(f"outward-{shares}", host_network=shares == "network")
    options = sandbox.linux.security_context.namespace_options
    options.pid = cri_pb.NODE if shares == "pid" else cri_pb.CONTAINER
    config = cri.container_config("c", busybox, ["sleep", "1000"])
    config.linux.security_context.namespace_options.CopyFrom(options)
    config.linux.security_context.masked_paths.extend(MASKED_PATHS)  # as a kubelet does
    config.linux.security_context.readonly_paths.extend(READONLY_PATHS)
    container_id = await cri.create(await cri.run_sandbox(sandbox), config, sandbox)
    await cri.start(container_id)
    shim = (node.run_dir / "shimd/shims" / container_id / "pid").read_text().split()[0]
    sockets = [str(path) for path in unix_sockets(node.run_dir)]
    assert len(sockets) > 10
    script = f"SHIM={shim} SOCKETS='{' '.join(sockets)}'\n{OUTWARD}"
    said = await cri.exec(container_id, ["sh", "-c", f"exec 2>/dev/null; {script}"])
    assert said.stdout.decode() == ""
    seen = await shell(cri, container_id, f"cat /proc/{shim}/comm")
    assert ("slipway-shim" in seen) is (shares == "pid")
