"""Pods over CRI: run, log, exec, stats, stop, remove; and nothing stays behind."""

from typing import Unpack

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import ContainerFields, Cri
from tests.support import logs
from tests.support.eventually import eventually, until
from tests.support.node import TestNode

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root]


async def pod(
    cri: Cri,
    name: str,
    image: str,
    command: list[str],
    *,
    host_network: bool = True,
    handler: str = "",
    **fields: Unpack[ContainerFields],
) -> tuple[str, str]:
    await cri.pull(image)
    sandbox = cri.sandbox_config(name, host_network=host_network)
    sandbox_id = await cri.run_sandbox(sandbox, handler)
    container_id = await cri.create(sandbox_id, cri.container_config("c", image, command, **fields), sandbox)
    await cri.start(container_id)
    return sandbox_id, container_id


async def reached(
    cri: Cri, container_id: str, state: cri_pb.ContainerState.ValueType, within_s: float = 30.0
) -> cri_pb.ContainerStatus:
    """The container's status once it is in this state."""

    async def in_it() -> cri_pb.ContainerStatus | None:
        status = await cri.status(container_id)
        return status if status.state == state else None

    what = f"container {container_id} to be {cri_pb.ContainerState.Name(state)}"
    return await until(in_it, what, within_s=within_s)


async def exited(cri: Cri, container_id: str, within_s: float = 30.0) -> cri_pb.ContainerStatus:
    return await reached(cri, container_id, cri_pb.CONTAINER_EXITED, within_s)


async def succeeds(cri: Cri, container_id: str, *command: str) -> None:
    """Wait until a command in the container ends with 0."""

    async def it_does() -> bool:
        return (await cri.exec(container_id, list(command))).exit_code == 0

    await until(it_does, f"{command} to succeed", within_s=30)


async def runs_no_more(cri: Cri, container_id: str, word: bytes, within_s: float = 20.0) -> None:
    """Wait until no process in the container has this in its command line."""

    async def it_does() -> bool:
        return word not in (await cri.exec(container_id, ["ps"])).stdout

    await until(it_does, f"the end of {word!r}", within_s=within_s)


@pytest.mark.parametrize("handler", ["crun", "runc"])
@pytest.mark.parametrize("host_network", [True, False], ids=["host", "cni"])
async def test_a_pod_runs_logs_and_goes(
    cri: Cri, node: TestNode, busybox: str, handler: str, host_network: bool
) -> None:
    name = f"life-{handler}-{host_network}".lower()
    sandbox_id, container_id = await pod(
        cri,
        name,
        busybox,
        ["sh", "-c", "echo out; echo err >&2; exit 3"],
        handler=handler,
        host_network=host_network,
    )
    status = await exited(cri, container_id)
    assert (status.exit_code, status.reason) == (3, "Error")
    assert 0 < status.created_at <= status.started_at <= status.finished_at
    assert sorted(logs.untimed(node.logs / name / "c.log")) == ["stderr F err", "stdout F out"]
    shown = await cri.call(
        cri.runtime.PodSandboxStatus, cri_pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
    )
    assert bool(shown.status.network.ip) is not host_network
    await cri.remove(container_id)
    await cri.remove_sandbox(sandbox_id)
    left = {
        kind: names
        for kind, names in node.leftovers().items()
        if any(container_id in n or sandbox_id in n for n in names)
    }
    assert not left


async def test_exec_has_its_own_output_and_exit_code(cri: Cri, busybox: str) -> None:
    _, container_id = await pod(cri, "exec", busybox, ["sleep", "1000"])
    answer = await cri.exec(container_id, ["sh", "-c", "echo hello; echo oops >&2; exit 5"])
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"hello\n", b"oops\n", 5)


async def test_exec_past_its_timeout_is_deadline_exceeded_and_leaves_no_process(
    cri: Cri, busybox: str
) -> None:
    _, container_id = await pod(cri, "exec-late", busybox, ["sleep", "1000"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.exec(container_id, ["sh", "-c", "sleep 777 & sleep 777"], timeout_s=1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    listed = await cri.exec(container_id, ["ps"])
    assert b"777" not in listed.stdout


async def test_stop_sends_the_signal_and_then_kills(cri: Cri, busybox: str) -> None:
    _, polite = await pod(
        cri, "polite", busybox, ["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"]
    )
    await cri.exec(polite, ["true"])
    await cri.stop(polite, 10)
    assert (await cri.status(polite)).exit_code == 7
    _, deaf = await pod(cri, "deaf", busybox, ["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"])
    await cri.stop(deaf, 1)
    assert (await cri.status(deaf)).exit_code == 137
    await cri.stop(deaf, 1)


async def test_stop_and_remove_of_unknown_ids_succeed(cri: Cri) -> None:
    await cri.stop("feedfacefeedface")
    await cri.remove("feedfacefeedface")
    await cri.remove_sandbox("feedfacefeedface")


async def test_the_same_request_again_gives_the_same_ids(cri: Cri, busybox: str) -> None:
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("twice", host_network=True)
    first = await cri.run_sandbox(sandbox)
    assert await cri.run_sandbox(sandbox) == first
    config = cri.container_config("c", busybox, ["true"])
    made = await cri.create(first, config, sandbox)
    assert await cri.create(first, config, sandbox) == made


async def test_stats_are_listed_for_running_containers(cri: Cri, busybox: str) -> None:
    _, container_id = await pod(cri, "stats", busybox, ["sh", "-c", "while :; do :; done"])
    await cri.exec(container_id, ["true"])
    answer = await cri.call(cri.runtime.ListContainerStats, cri_pb.ListContainerStatsRequest())
    mine = next(s for s in answer.stats if s.attributes.id == container_id)
    assert mine.cpu.usage_core_nano_seconds.value > 0
    assert mine.memory.working_set_bytes.value > 0
    assert mine.writable_layer.fs_id.mountpoint


async def test_a_full_reopen_loses_no_line(cri: Cri, node: TestNode, busybox: str) -> None:
    count = 3000
    _, container_id = await pod(
        cri,
        "rotate",
        busybox,
        ["sh", "-c", f"i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); done; sleep 1000"],
    )
    path = node.logs / "rotate" / "c.log"
    old = []
    for turn in range(3):
        moved = path.with_suffix(f".{turn}")
        path.rename(moved)
        request = cri_pb.ReopenContainerLogRequest(container_id=container_id)
        await cri.call(cri.runtime.ReopenContainerLog, request)
        assert path.exists()
        old.append(moved)
    eventually(lambda: len(logs.lines(*old, path)) >= count, what="all lines")
    assert logs.lines(*old, path) == [f"line {i}" for i in range(count)]


async def test_limits_are_applied_and_updated(cri: Cri, busybox: str) -> None:
    resources = cri_pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_shares=512)
    config = cri_pb.LinuxContainerConfig(resources=resources)
    _, container_id = await pod(cri, "limits", busybox, ["sleep", "1000"], linux=config)
    wanted = cri_pb.LinuxContainerResources(memory_limit_in_bytes=128 << 20)
    request = cri_pb.UpdateContainerResourcesRequest(container_id=container_id, linux=wanted)
    await cri.call(cri.runtime.UpdateContainerResources, request)
    status = await cri.status(container_id)
    assert status.resources.linux.memory_limit_in_bytes == 128 << 20


async def test_an_update_changes_the_oom_score_of_every_process(cri: Cri, busybox: str) -> None:
    _, container_id = await pod(cri, "score", busybox, ["sh", "-c", "sleep 1000 & wait"])
    wanted = cri_pb.LinuxContainerResources(oom_score_adj=777)
    request = cri_pb.UpdateContainerResourcesRequest(container_id=container_id, linux=wanted)
    await cri.call(cri.runtime.UpdateContainerResources, request)
    command = [
        "sh",
        "-c",
        "cat /proc/1/oom_score_adj /proc/$(pidof sleep)/oom_score_adj /proc/self/oom_score_adj",
    ]
    assert (await cri.exec(container_id, command)).stdout == b"777\n777\n777\n"
    assert (await cri.status(container_id)).resources.linux.oom_score_adj == 777


async def test_an_update_with_what_means_nothing_here_is_refused_by_name(cri: Cri, busybox: str) -> None:
    _, container_id = await pod(cri, "options", busybox, ["sleep", "1000"])
    for fields, named in (
        ({"windows": cri_pb.WindowsContainerResources(cpu_count=1)}, "windows"),
        ({"annotations": {"example.com/x": "y"}}, "example.com/x"),
    ):
        request = cri_pb.UpdateContainerResourcesRequest(container_id=container_id, **fields)
        with pytest.raises(grpc.aio.AioRpcError, match=named):
            await cri.call(cri.runtime.UpdateContainerResources, request)


async def test_too_much_memory_is_oom_killed(cri: Cri, busybox: str) -> None:
    resources = cri_pb.LinuxContainerResources(
        memory_limit_in_bytes=16 << 20, memory_swap_limit_in_bytes=16 << 20
    )
    _, container_id = await pod(
        cri,
        "oom",
        busybox,
        ["sh", "-c", "exec dd if=/dev/zero of=/dev/null bs=64M count=1"],
        linux=cri_pb.LinuxContainerConfig(resources=resources),
    )
    status = await exited(cri, container_id)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
