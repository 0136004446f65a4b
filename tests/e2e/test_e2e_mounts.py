"""Mounts over CRI: what propagates where, what is read-only how far, what options and sources do."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from common.sys import linux
from common.sys.mounts import unmount_below
from devtools.cri import Cri
from tests.support import refusals

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root]

PRIVATE = cri_pb.PROPAGATION_PRIVATE
HOST_TO_CONTAINER, BIDIRECTIONAL = cri_pb.PROPAGATION_HOST_TO_CONTAINER, cri_pb.PROPAGATION_BIDIRECTIONAL
HANDLERS = pytest.mark.parametrize("handler", ["crun", "runc"])


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A shared mount that was made after the node's start, with directories `a` and `b`."""
    place = tmp_path / "shared"
    place.mkdir()
    linux.mount("none", str(place), "tmpfs")
    linux.mount("none", str(place), None, linux.MS_SHARED)
    for name in ("a", "b"):
        (place / name).mkdir()
    yield place
    unmount_below(place)


async def create(cri: Cri, name: str, image: str, mounts: list[cri_pb.Mount], handler: str = "") -> str:
    """A privileged container, so that it may mount."""
    await cri.pull(image)
    sandbox = cri.sandbox_config(name, host_network=True)
    sandbox.linux.security_context.privileged = True
    config = cri.container_config("c", image, ["sleep", "1000"], mounts=mounts)
    config.linux.security_context.privileged = True
    return await cri.create(await cri.run_sandbox(sandbox, handler), config, sandbox)


async def run(cri: Cri, name: str, image: str, mounts: list[cri_pb.Mount], handler: str = "") -> str:
    container_id = await create(cri, name, image, mounts, handler)
    await cri.start(container_id)
    return container_id


async def shell(cri: Cri, container_id: str, script: str) -> tuple[int, str]:
    answer = await cri.exec(container_id, ["sh", "-c", script])
    return answer.exit_code, (answer.stdout + answer.stderr).decode()


@HANDLERS
async def test_bidirectional_mounts_propagate_both_ways(
    cri: Cri, busybox: str, shared: Path, handler: str
) -> None:
    mount = cri_pb.Mount(container_path="/v", host_path=str(shared), propagation=BIDIRECTIONAL)
    container_id = await run(cri, f"both-{handler}", busybox, [mount], handler)
    linux.mount("none", str(shared / "a"), "tmpfs")
    (shared / "a/from-host").touch()
    assert await shell(cri, container_id, "ls /v/a") == (0, "from-host\n")
    code, said = await shell(cri, container_id, "mount -t tmpfs none /v/b && touch /v/b/from-container")
    assert code == 0, said
    assert (shared / "b").is_mount()
    assert (shared / "b/from-container").exists()
    assert (await cri.status(container_id)).mounts[0].propagation == BIDIRECTIONAL


@HANDLERS
async def test_host_to_container_mounts_propagate_one_way(
    cri: Cri, busybox: str, shared: Path, handler: str
) -> None:
    mount = cri_pb.Mount(container_path="/v", host_path=str(shared), propagation=HOST_TO_CONTAINER)
    container_id = await run(cri, f"slave-{handler}", busybox, [mount], handler)
    linux.mount("none", str(shared / "a"), "tmpfs")
    (shared / "a/from-host").touch()
    assert await shell(cri, container_id, "ls /v/a") == (0, "from-host\n")
    assert await shell(cri, container_id, "mount -t tmpfs none /v/b") == (0, "")
    assert not (shared / "b").is_mount()


@HANDLERS
async def test_private_mounts_propagate_nothing(cri: Cri, busybox: str, shared: Path, handler: str) -> None:
    mount = cri_pb.Mount(container_path="/v", host_path=str(shared))
    container_id = await run(cri, f"private-{handler}", busybox, [mount], handler)
    linux.mount("none", str(shared / "a"), "tmpfs")
    (shared / "a/from-host").touch()
    assert await shell(cri, container_id, "ls /v/a; mount -t tmpfs none /v/b") == (0, "")
    assert not (shared / "b").is_mount()


async def test_the_end_of_a_container_leaves_the_hosts_mounts(cri: Cri, busybox: str, shared: Path) -> None:
    linux.mount("none", str(shared / "a"), "tmpfs")
    mount = cri_pb.Mount(container_path="/v", host_path=str(shared), propagation=BIDIRECTIONAL)
    container_id = await run(cri, "end", busybox, [mount])
    await cri.remove(container_id)
    assert (shared / "a").is_mount()
    assert shared.is_mount()


async def test_what_cannot_propagate_is_refused_by_name(cri: Cri, busybox: str, tmp_path: Path) -> None:
    place = tmp_path / "private"
    place.mkdir()
    linux.mount("none", str(place), "tmpfs")
    linux.mount("none", str(place), None, linux.MS_PRIVATE)
    try:
        mount = cri_pb.Mount(container_path="/v", host_path=str(place), propagation=BIDIRECTIONAL)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create(cri, "private", busybox, [mount])
    finally:
        linux.umount(str(place))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refusals.told(caught) == f"mounts.propagation: {str(place)!r} is not on a shared mount"


@HANDLERS
@pytest.mark.parametrize("recursive", [False, True])
async def test_read_only_reaches_what_is_mounted_below_if_asked(
    cri: Cri, busybox: str, shared: Path, handler: str, recursive: bool
) -> None:
    linux.mount("none", str(shared / "a"), "tmpfs")
    mounts = [
        cri_pb.Mount(container_path=path, host_path=host, readonly=True, recursive_read_only=recursive)
        for path, host in (("/v", str(shared)), ("/etc/mine", "/etc/passwd"))
    ]
    container_id = await run(cri, f"ro-{handler}-{recursive}".lower(), busybox, mounts, handler)
    assert (await shell(cri, container_id, "touch /v/x"))[0] == 1
    assert (await shell(cri, container_id, "echo >> /etc/mine"))[0] == 1
    assert (await shell(cri, container_id, "touch /v/a/x"))[0] == (1 if recursive else 0)


@pytest.mark.parametrize(
    ("readonly", "propagation"), [(False, PRIVATE), (True, HOST_TO_CONTAINER), (True, BIDIRECTIONAL)]
)
async def test_recursive_read_only_has_its_conditions(
    cri: Cri,
    busybox: str,
    shared: Path,
    readonly: bool,
    propagation: cri_pb.MountPropagation.ValueType,
) -> None:
    mount = cri_pb.Mount(
        container_path="/v",
        host_path=str(shared),
        recursive_read_only=True,
        readonly=readonly,
        propagation=propagation,
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(cri, "rro-bad", busybox, [mount])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "mounts.recursive_read_only: '/v' needs readonly and private" in refusals.told(caught)


async def test_recursive_read_only_by_a_handler_that_cannot_has_the_kubelets_prefix(
    cri: Cri, busybox: str
) -> None:
    mount = cri_pb.Mount(container_path="/v", host_path="/tmp", readonly=True, recursive_read_only=True)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(cri, "rro-runsc", busybox, [mount], "runsc")
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert refusals.told(caught).startswith(
        "RROUnsupported: mounts.recursive_read_only: '/v': handler 'runsc'"
    )


async def test_nothing_propagates_out_of_a_kernel_of_its_own(cri: Cri, busybox: str, shared: Path) -> None:
    mount = cri_pb.Mount(container_path="/v", host_path=str(shared), propagation=BIDIRECTIONAL)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(cri, "both-runsc", busybox, [mount], "runsc")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "mounts.propagation: '/v'" in refusals.told(caught)


async def test_features_are_told(cri: Cri) -> None:
    status = await cri.call(cri.runtime.Status, cri_pb.StatusRequest())
    handlers = {h.name: h.features.recursive_read_only_mounts for h in status.runtime_handlers}
    assert handlers == {"": True, "crun": True, "runc": True, "runsc": False}
    assert status.features.mount_options


@HANDLERS
async def test_mount_options_are_applied(cri: Cri, busybox: str, tmp_path: Path, handler: str) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")
    (tmp_path / "script").chmod(0o755)
    options = ["noexec", "nosuid", "nodev"]
    mount = cri_pb.Mount(container_path="/v", host_path=str(tmp_path), mount_options=options)
    container_id = await run(cri, f"options-{handler}", busybox, [mount], handler)
    _, table = await shell(cri, container_id, "grep ' /v ' /proc/self/mounts")
    assert set(options) <= set(table.split()[3].split(","))
    code, said = await shell(cri, container_id, "/v/script")
    assert (code, "Permission denied" in said) == (126, True)


async def test_an_unknown_mount_option_is_refused(cri: Cri, busybox: str) -> None:
    mount = cri_pb.Mount(container_path="/v", host_path="/tmp", mount_options=["noexec", "suid"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(cri, "options-bad", busybox, [mount])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refusals.told(caught) == "mounts.mount_options: 'suid' is unknown"


async def test_files_links_and_missing_paths_are_mounted(cri: Cri, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    missing = tmp_path / "not/there"
    mounts = [
        cri_pb.Mount(container_path="/etc/passwd", host_path=str(tmp_path / "file")),
        cri_pb.Mount(container_path="/new/file", host_path=str(tmp_path / "link")),
        cri_pb.Mount(container_path="/bin/over", host_path=str(missing)),
    ]
    container_id = await run(cri, "sources", busybox, mounts)
    assert await shell(cri, container_id, "cat /etc/passwd /new/file; ls -d /bin/over/") == (
        0,
        "content\ncontent\n/bin/over/\n",
    )
    assert missing.stat().st_mode & 0o777 == 0o755
    told = {m.container_path: m.host_path for m in (await cri.status(container_id)).mounts}
    assert told["/new/file"] == str(tmp_path / "link")
