"""User namespaces over CRI: who a container's root is on the node, what it sees and leaves there, what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from common.sys import linux
from common.sys.mounts import unmount_below
from devtools.cri import ContainerFields, Cri
from tests.support import refusals
from tests.support.node import TestNode

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root]

CODE = grpc.StatusCode
FIRST, COUNT = 100_000, 65_536
POD, CONTAINER, NODE = cri_pb.POD, cri_pb.CONTAINER, cri_pb.NODE
RANGE = cri_pb.IDMapping(container_id=0, host_id=FIRST, length=COUNT)
MAPPED = cri_pb.UserNamespace(mode=POD, uids=[RANGE], gids=[RANGE])
Options = cri_pb.NamespaceOption
OTHERS_OF_POD = Options()
"""The other namespaces as they are of a pod where nothing else is wanted."""


def sandbox_config(
    cri: Cri, name: str, wanted: cri_pb.UserNamespace = MAPPED, others: Options = OTHERS_OF_POD
) -> cri_pb.PodSandboxConfig:
    config = cri.sandbox_config(name)
    config.linux.security_context.namespace_options.MergeFrom(others)
    config.linux.security_context.namespace_options.userns_options.CopyFrom(wanted)
    return config


async def run(
    cri: Cri,
    name: str,
    image: str,
    command: list[str],
    *,
    pid: cri_pb.NamespaceMode.ValueType = CONTAINER,
    **fields: Unpack[ContainerFields],
) -> str:
    await cri.pull(image)
    sandbox = sandbox_config(cri, name)
    sandbox.linux.security_context.namespace_options.pid = pid
    config = cri.container_config("c", image, command, **fields)
    config.linux.security_context.namespace_options.CopyFrom(sandbox.linux.security_context.namespace_options)
    container_id = await cri.create(await cri.run_sandbox(sandbox), config, sandbox)
    await cri.start(container_id)
    return container_id


async def shell(cri: Cri, container_id: str, script: str) -> tuple[int, str]:
    answer = await cri.exec(container_id, ["sh", "-c", script])
    return answer.exit_code, (answer.stdout + answer.stderr).decode()


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


@pytest.mark.parametrize("pid", [CONTAINER, POD], ids=["own-pids", "pod-pids"])
async def test_root_of_a_pod_is_nobody_special_on_the_node(
    cri: Cri, node: TestNode, busybox: str, pid: cri_pb.NamespaceMode.ValueType
) -> None:
    container_id = await run(cri, f"userns-{pid}", busybox, ["sleep", "1000"], pid=pid)
    assert (await shell(cri, container_id, "cat /proc/self/uid_map"))[1].split() == [
        "0",
        str(FIRST),
        str(COUNT),
    ]
    assert (await shell(cri, container_id, "cat /proc/self/gid_map"))[1].split() == [
        "0",
        str(FIRST),
        str(COUNT),
    ]
    assert (await shell(cri, container_id, "id -u; stat -c %u:%g /bin/busybox /"))[1].split() == [
        "0",
        "0:0",
        "0:0",
    ]
    code, said = await shell(
        cri, container_id, "touch /made && chown 7:8 /made && mkdir -p /tmp/d && rm /bin/ls"
    )
    assert code == 0, said
    (upper,) = (node.data_dir / "snapshotd/snapshots" / container_id).glob("upper")
    assert owner(upper / "made") == (FIRST + 7, FIRST + 8)
    assert owner(upper) == (FIRST, FIRST)
    code, said = await shell(cri, container_id, "ps")
    assert ("slipway-pause" in said) is (pid == POD)
    assert (await shell(cri, container_id, "grep -c ^ /proc/1/status"))[0] == 0


async def test_a_pod_owns_its_network_and_its_files(cri: Cri, busybox: str) -> None:
    container_id = await run(cri, "userns-files", busybox, ["sleep", "1000"])
    script = "cat /etc/hostname; touch /dev/shm/x && stat -c %u /dev/shm /dev/shm/x /etc/resolv.conf"
    assert await shell(cri, container_id, script) == (0, "userns-files\n0\n0\n0\n")
    code, said = await shell(cri, container_id, "ping -c1 -w2 127.0.0.1 >/dev/null && mount | grep -c sysfs")
    assert (code, said) == (0, "1\n")
    stats = await cri.call(
        cri.runtime.ContainerStats, cri_pb.ContainerStatsRequest(container_id=container_id)
    )
    assert stats.stats.memory.working_set_bytes.value > 0


async def test_a_volume_has_the_containers_ids_inside_and_the_nodes_outside(
    cri: Cri, busybox: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "old").write_text("old")
    mapped = cri_pb.Mount(
        container_path="/v", host_path=str(tmp_path), uidMappings=[RANGE], gidMappings=[RANGE]
    )
    plain = cri_pb.Mount(container_path="/w", host_path=str(tmp_path))
    container_id = await run(cri, "userns-volume", busybox, ["sleep", "1000"], mounts=[mapped, plain])
    code, said = await shell(
        cri, container_id, "stat -c %u /v/old /w/old; echo new > /v/new; chown 5:6 /v/new"
    )
    assert (code, said) == (0, "0\n65534\n")
    assert owner(tmp_path / "new") == (5, 6)
    assert (await shell(cri, container_id, "touch /w/other"))[0] != 0


async def test_everything_of_a_pod_goes_with_it(cri: Cri, node: TestNode, busybox: str) -> None:
    before = node.leftovers()
    container_id = await run(cri, "userns-gone", busybox, ["sleep", "1000"], pid=POD)
    assert container_id in node.leftovers()["snapshots"]
    await cri.remove_all()
    assert node.leftovers() == before


@pytest.fixture
def without_idmaps(tmp_path: Path) -> Iterator[Path]:
    """A mount of a filesystem that cannot map ids."""
    place = tmp_path / "place"
    place.mkdir()
    linux.mount("proc", str(place), "proc")
    yield place
    unmount_below(place)


async def test_a_filesystem_without_mapped_ids_is_refused_by_the_mounts_name(
    cri: Cri, busybox: str, without_idmaps: Path
) -> None:
    mount = cri_pb.Mount(
        container_path="/v", host_path=str(without_idmaps), uidMappings=[RANGE], gidMappings=[RANGE]
    )
    with pytest.raises(grpc.aio.AioRpcError, match=r"uidMappings.*/v") as caught:
        await run(cri, "userns-nofs", busybox, ["true"], mounts=[mount])
    assert caught.value.code() is CODE.INVALID_ARGUMENT


def mapping(container_id: int, host_id: int, length: int) -> cri_pb.IDMapping:
    return cri_pb.IDMapping(container_id=container_id, host_id=host_id, length=length)


BAD: dict[str, tuple[list[cri_pb.IDMapping], list[cri_pb.IDMapping], Options, str]] = {
    "two": ([RANGE, mapping(COUNT, 500_000, 10)], [RANGE], OTHERS_OF_POD, "uids: 2 mappings"),
    "none": ([RANGE], [], OTHERS_OF_POD, "gids: 0 mappings"),
    "empty": ([mapping(0, FIRST, 0)], [RANGE], OTHERS_OF_POD, "length is 0"),
    "beyond": ([mapping(0, 4294967290, 100)], [RANGE], OTHERS_OF_POD, "4294967290"),
    "no root": ([mapping(1, FIRST, 10)], [RANGE], OTHERS_OF_POD, "container_id is 1"),
    "root": ([mapping(0, 0, 10)], [RANGE], OTHERS_OF_POD, "host_id is 0"),
    "host network": ([RANGE], [RANGE], Options(network=NODE), "network"),
    "host pids": ([RANGE], [RANGE], Options(pid=NODE), "pid"),
    "host ipc": ([RANGE], [RANGE], Options(ipc=NODE), "ipc"),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_mappings_are_refused_by_name(cri: Cri, case: str) -> None:
    uids, gids, others, named = BAD[case]
    wanted = cri_pb.UserNamespace(mode=POD, uids=uids, gids=gids)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.run_sandbox(sandbox_config(cri, "userns-bad", wanted, others))
    assert caught.value.code() in (CODE.INVALID_ARGUMENT, CODE.UNIMPLEMENTED)
    assert "userns_options" in refusals.told(caught)
    assert named in refusals.told(caught)


async def test_a_container_has_the_mappings_of_its_sandbox(cri: Cri, busybox: str) -> None:
    await cri.pull(busybox)
    sandbox = sandbox_config(cri, "userns-other")
    sandbox_id = await cri.run_sandbox(sandbox)
    other = mapping(0, FIRST + 1, COUNT)
    config = cri.container_config("c", busybox, ["true"])
    config.linux.security_context.namespace_options.userns_options.CopyFrom(
        cri_pb.UserNamespace(mode=POD, uids=[other], gids=[other])
    )
    with pytest.raises(grpc.aio.AioRpcError, match="differ from the sandbox's"):
        await cri.create(sandbox_id, config, sandbox)


async def test_a_handler_says_whether_it_maps_ids_and_is_refused_if_not(cri: Cri) -> None:
    status = await cri.call(cri.runtime.Status, cri_pb.StatusRequest())
    features = {h.name: h.features.user_namespaces for h in status.runtime_handlers}
    assert features["crun"]
    assert features[""]
    assert not status.features.user_namespaces_host_network
    assert not features["runc"]  # Debian 12's, 1.1, ignores the mappings of mounts
    with pytest.raises(grpc.aio.AioRpcError, match="'runc'") as caught:
        await cri.run_sandbox(sandbox_config(cri, "userns-runc"), "runc")
    assert caught.value.code() is CODE.UNIMPLEMENTED
