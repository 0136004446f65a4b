"""FEATURES 4.4, 4.6 and 4.10: limits that are read back, and what a container finds when it starts."""

import json
import uuid
from pathlib import Path
from typing import Unpack

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import ContainerFields, Cri
from devtools.registry import Registry, busybox_layer, directory, file, layer
from node.layout import OOM_SCORES
from tests.e2e.test_e2e_pods import exited, pod, succeeds
from tests.support import cgroups, logs
from tests.support.node import TestNode

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]

MIB = 1 << 20
Resources = cri_pb.LinuxContainerResources


def limits(wanted: Resources) -> cri_pb.LinuxContainerConfig:
    return cri_pb.LinuxContainerConfig(resources=wanted)


async def update(cri: Cri, container_id: str, wanted: Resources) -> None:
    request = cri_pb.UpdateContainerResourcesRequest(container_id=container_id, linux=wanted)
    await cri.call(cri.runtime.UpdateContainerResources, request)


async def resources(cri: Cri, container_id: str) -> Resources:
    return (await cri.status(container_id)).resources.linux


async def created(
    cri: Cri,
    name: str,
    image: str,
    command: list[str],
    sandbox: cri_pb.PodSandboxConfig | None = None,
    **fields: Unpack[ContainerFields],
) -> str:
    await cri.pull(image)
    sandbox = sandbox or cri.sandbox_config(name, host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    return await cri.create(sandbox_id, cri.container_config("c", image, command, **fields), sandbox)


async def output(
    cri: Cri,
    node: TestNode,
    name: str,
    image: str,
    command: list[str],
    handler: str = "",
    **fields: Unpack[ContainerFields],
) -> list[str]:
    """What a container writes until it ends, well."""
    _, container_id = await pod(cri, name, image, command, handler=handler, **fields)
    assert (await exited(cri, container_id)).exit_code == 0
    return logs.lines(node.logs / name / "c.log")


async def test_an_update_while_running_shows_what_the_kernel_made_of_it(cri: Cri, busybox: str) -> None:
    _, container_id = await pod(
        cri,
        "resize",
        busybox,
        ["sleep", "1000"],
        linux=limits(
            Resources(memory_limit_in_bytes=64 * MIB, cpu_shares=512, cpu_quota=50_000, cpu_period=100_000)
        ),
    )
    await update(
        cri, container_id, Resources(memory_limit_in_bytes=96 * MIB + 1, cpu_shares=1024, cpu_quota=70_000)
    )
    shown = await resources(cri, container_id)
    assert shown.memory_limit_in_bytes == 96 * MIB  # whole pages
    assert (shown.cpu_shares, shown.cpu_quota, shown.cpu_period) == (1024, 70_000, 100_000)
    await update(cri, container_id, Resources(cpu_shares=2))
    assert (await resources(cri, container_id)).cpu_shares == 2


async def test_an_update_of_a_created_container_holds_when_it_starts(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    container_id = await created(
        cri,
        "resize-created",
        busybox,
        ["sleep", "1000"],
        linux=limits(Resources(memory_limit_in_bytes=64 * MIB)),
    )
    await update(
        cri, container_id, Resources(memory_limit_in_bytes=32 * MIB, cpu_quota=20_000, cpu_period=100_000)
    )
    assert (await resources(cri, container_id)).memory_limit_in_bytes == 32 * MIB
    await cri.start(container_id)
    found = [
        p.read_text().strip() for p in cgroups.files(container_id, "memory.limit_in_bytes", "memory.max")
    ]
    assert found == [str(32 * MIB)]
    assert (await resources(cri, container_id)).cpu_quota == 20_000


async def test_a_limit_below_what_is_in_use_is_refused_and_changes_nothing(cri: Cri, busybox: str) -> None:
    script = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo full > /tmp/full; while :; do sleep 1; done"
    _, container_id = await pod(
        cri,
        "shrink",
        busybox,
        ["sh", "-c", script],
        linux=limits(
            Resources(memory_limit_in_bytes=128 * MIB, memory_swap_limit_in_bytes=128 * MIB, cpu_shares=512)
        ),
    )
    await succeeds(cri, container_id, "cat", "/tmp/full")
    before = await resources(cri, container_id)
    with pytest.raises(grpc.aio.AioRpcError, match="memory_limit_in_bytes") as caught:
        await update(cri, container_id, Resources(memory_limit_in_bytes=8 * MIB, cpu_shares=1024))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert await resources(cri, container_id) == before
    assert [
        p.read_text().strip() for p in cgroups.files(container_id, "memory.limit_in_bytes", "memory.max")
    ] == [str(128 * MIB)]
    assert [p.read_text().strip() for p in cgroups.files(container_id, "cpu.shares", "cpu.weight")] in (
        ["512"],
        ["59"],
    )
    assert (await cri.status(container_id)).state == cri_pb.CONTAINER_RUNNING


async def test_unified_keys_stay_when_others_change(cri: Cri, busybox: str) -> None:
    container_id = await created(
        cri,
        "unified",
        busybox,
        ["sleep", "1000"],
        linux=limits(Resources(memory_limit_in_bytes=64 * MIB, unified={"pids.max": "77"})),
    )
    await update(cri, container_id, Resources(memory_limit_in_bytes=32 * MIB))
    await cri.start(container_id)
    await update(cri, container_id, Resources(memory_limit_in_bytes=48 * MIB))
    assert dict((await resources(cri, container_id)).unified) == {"pids.max": "77"}
    assert [p.read_text().strip() for p in cgroups.files(container_id, "pids.max")] == ["77"]


async def test_an_update_of_an_ended_container_is_refused(cri: Cri, busybox: str) -> None:
    _, container_id = await pod(cri, "resize-ended", busybox, ["true"])
    await exited(cri, container_id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await update(cri, container_id, Resources(cpu_shares=1024))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_cgroups_are_below_the_parent_that_the_kubelet_chose(cri: Cri, busybox: str) -> None:
    parent = cgroups.parent(f"kubepods{uuid.uuid4().hex[:6]}", "besteffort", "podx")
    sandbox = cri.sandbox_config("parent", host_network=True)
    sandbox.linux.cgroup_parent = parent
    container_id = await created(cri, "parent", busybox, ["sleep", "1000"], sandbox)
    await cri.start(container_id)
    found = cgroups.files(container_id, "cgroup.procs")
    assert found
    assert all(str(path.parent.parent).endswith(cgroups.folder(parent)) for path in found)
    await cri.remove_all()
    for path in (
        [] if cgroups.SYSTEMD else found
    ):  # folders are the kubelet's to remove, slices go by themselves
        for directory_above in list(path.parents)[1:4]:
            directory_above.rmdir()


async def test_environment_is_hostname_then_the_image_then_the_request(
    cri: Cri, node: TestNode, shop: Registry
) -> None:
    image = shop.push(
        "demo/env", [busybox_layer()], {"Env": ["PATH=/bin", "A=image", "B=image", "HOSTNAME=image"]}
    )
    envs = [cri_pb.KeyValue(key="B", value=b"request"), cri_pb.KeyValue(key="C", value="ü\t\"'$ ".encode())]
    found = await output(cri, node, "env-1", image, ["env"], envs=envs)
    assert {"A=image", "B=request", "HOSTNAME=image", "C=ü\t\"'$ "} <= set(found)
    plain = shop.push("demo/env-2", [busybox_layer()], {"Env": ["PATH=/bin"]})
    sandbox = cri.sandbox_config("env-2", hostname="my-host")
    container_id = await created(cri, "env-2", plain, ["env"], sandbox)
    await cri.start(container_id)
    await exited(cri, container_id)
    assert "HOSTNAME=my-host" in (node.logs / "env-2" / "c.log").read_text()


async def test_a_value_that_is_no_utf8_is_refused_by_name(cri: Cri, busybox: str) -> None:
    """An OCI configuration is JSON: other bytes would reach the process changed."""
    envs = [cri_pb.KeyValue(key="RAW", value=b"\xff\xfe")]
    with pytest.raises(grpc.aio.AioRpcError, match="RAW") as caught:
        await created(cri, "raw-env", busybox, ["env"], envs=envs)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("handler", ["crun", "runc"])
async def test_a_working_directory_that_is_not_there_is_made(
    cri: Cri, node: TestNode, busybox: str, handler: str
) -> None:
    found = await output(
        cri,
        node,
        f"cwd-{handler}",
        busybox,
        ["sh", "-c", "pwd; stat -c %a .; umask"],
        handler=handler,
        working_dir="/not/yet/there",
    )
    assert found == ["/not/yet/there", "755", "0022"]


@pytest.mark.parametrize(
    ("command", "args", "said"),
    [
        ([], [], "entry cmd"),
        ([], ["own"], "entry own"),
        (["echo", "replaced"], [], "replaced"),
        (["echo"], ["both"], "both"),
    ],
)
async def test_command_replaces_the_entrypoint_and_args_the_cmd(
    cri: Cri, node: TestNode, shop: Registry, command: list[str], args: list[str], said: str
) -> None:
    image = shop.push(
        "demo/entry",
        [busybox_layer()],
        {"Env": ["PATH=/bin"], "Entrypoint": ["echo", "entry"], "Cmd": ["cmd"]},
    )
    name = f"entry-{uuid.uuid4().hex[:6]}"
    assert await output(cri, node, name, image, command, args=args) == [said]


async def test_a_volume_of_the_image_has_its_content_and_owners_and_goes_with_the_container(
    cri: Cri, node: TestNode, shop: Registry
) -> None:
    owned = directory("seeded", 0o750)
    owned.uid, owned.gid = 1234, 4321
    seed = file("seeded/seed", b"grown\n", 0o640)
    seed[0].uid, seed[0].gid = 1234, 4321
    image = shop.push(
        "demo/volume",
        [busybox_layer(), layer([owned, seed])],
        {"Env": ["PATH=/bin"], "Volumes": {"/seeded": {}}},
    )
    script = "cat /seeded/seed; stat -c '%u %g %a' /seeded /seeded/seed; echo more > /seeded/more; grep -c ' /seeded ' /proc/mounts"
    found = await output(cri, node, "volume", image, ["sh", "-c", script])
    assert found == ["grown", "1234 4321 750", "1234 4321 640", "1"]
    listed = (await cri.call(cri.runtime.ListContainers, cri_pb.ListContainersRequest())).containers
    mounts = (await cri.status(listed[0].id)).mounts
    source = next(m.host_path for m in mounts if m.container_path == "/seeded")
    assert Path(source, "more").read_text() == "more\n"
    await cri.remove_all()
    assert not Path(source).exists()


async def test_the_termination_message_is_at_the_host_path_of_its_mount(
    cri: Cri, node: TestNode, busybox: str, tmp_path: Path
) -> None:
    path = tmp_path / "termination-log"
    path.touch(0o666)
    mounts = [cri_pb.Mount(container_path="/dev/termination-log", host_path=str(path))]
    _, container_id = await pod(
        cri, "message", busybox, ["sh", "-c", "echo because > /dev/termination-log; exit 1"], mounts=mounts
    )
    status = await exited(cri, container_id)
    found = [m.host_path for m in status.mounts if m.container_path == "/dev/termination-log"]
    assert [Path(p).read_text() for p in found] == ["because\n"]


async def test_a_pod_has_its_hostname_dns_and_shared_memory(cri: Cri, node: TestNode, busybox: str) -> None:
    dns = cri_pb.DNSConfig(servers=["10.1.2.3"], searches=["a.example", "b.example"], options=["ndots:5"])
    sandbox = cri.sandbox_config("files", hostname="the-pod", dns_config=dns)
    script = "hostname; cat /etc/hostname /etc/resolv.conf; stat -f -c %T /dev/shm; stat -c %a /dev/shm"
    container_id = await created(cri, "files", busybox, ["sh", "-c", script], sandbox)
    await cri.start(container_id)
    assert (await exited(cri, container_id)).exit_code == 0
    said = logs.lines(node.logs / "files" / "c.log")
    assert said == [
        *("the-pod", "the-pod", "search a.example b.example", "nameserver 10.1.2.3", "options ndots:5"),
        *("tmpfs", "1777"),
    ]


@pytest.mark.parametrize("wanted", [1000, 500, -998])
async def test_an_oom_score_is_set_as_far_as_the_node_may(
    cri: Cri, node: TestNode, busybox: str, wanted: int
) -> None:
    found = await output(
        cri,
        node,
        f"score{wanted}",
        busybox,
        ["cat", "/proc/self/oom_score_adj"],
        linux=limits(Resources(oom_score_adj=wanted)),
    )
    assert found == [str(lowest(node, wanted))]


async def test_the_pause_of_a_pod_is_the_last_to_be_killed_for_memory(cri: Cri, node: TestNode) -> None:
    sandbox = cri.sandbox_config("score-pause", host_network=True)
    sandbox.linux.security_context.namespace_options.pid = cri_pb.POD
    request = cri_pb.PodSandboxStatusRequest(pod_sandbox_id=await cri.run_sandbox(sandbox), verbose=True)
    pid = json.loads((await cri.call(cri.runtime.PodSandboxStatus, request)).info["info"])["pid"]
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == lowest(node, -998)


async def test_the_node_is_spared_from_the_want_of_memory_as_far_as_it_may(node: TestNode) -> None:
    scores = {pid: OOM_SCORES[name] for name, pid in node.state["pids"].items()}
    scores[node.state["supervisor"]] = -999
    for pid, score in scores.items():
        assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == lowest(node, score)


def lowest(node: TestNode, wanted: int) -> int:
    """What becomes of a wanted score: without CAP_SYS_RESOURCE none goes below the service's own."""
    status = Path(f"/proc/{node.pid('runtimed')}/status").read_text()
    capabilities = int(next(x for x in status.splitlines() if x.startswith("CapEff")).split()[1], 16)
    own = int(Path(f"/proc/{node.pid('runtimed')}/oom_score_adj").read_text())
    return wanted if capabilities >> 24 & 1 else max(wanted, own)
