"""FEATURES 4.6: how containers are stopped, and what is told of their end."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri
from runtimed import processes
from tests.e2e.test_e2e_faults import events
from tests.e2e.test_e2e_pods import exited, pod, reached, succeeds
from tests.support import logs
from tests.support.eventually import until
from tests.support.node import TestNode
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]

COUNTS_TERMS = "n=0; trap 'n=$((n+1)); echo term $n' TERM; echo begun; while :; do sleep 0.05; done"


def limited(limit: int) -> cri_pb.LinuxContainerConfig:
    resources = cri_pb.LinuxContainerResources(memory_limit_in_bytes=limit, memory_swap_limit_in_bytes=limit)
    return cri_pb.LinuxContainerConfig(resources=resources)


async def logged(node: TestNode, name: str, text: str) -> None:
    """Wait until a line of the container's log ends so."""
    path = node.logs / name / "c.log"
    await until(lambda: any(line.endswith(text) for line in logs.lines(path)), f"the line {text!r}")


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        ("exit 0", 0, "Completed"),
        ("exit 3", 3, "Error"),
        ("exit 255", 255, "Error"),
        ("kill -TERM $$", 143, "Error"),
        ("kill -KILL $$", 137, "Error"),
        ("kill -SEGV $$", 139, "Error"),
    ],
)
async def test_an_exit_has_its_code_or_128_and_the_signal(
    cri: Cri, busybox: str, script: str, code: int, reason: str
) -> None:
    command = ["sh", "-c", f"sh -c '{script}'; exit $?"]  # pid 1 itself is deaf to its own signals
    _, container_id = await pod(cri, f"ends-{code}-{len(script)}", busybox, command)
    status = await exited(cri, container_id)
    assert (status.exit_code, status.reason) == (code, reason)


async def test_memory_beyond_the_limit_is_oomkilled_also_below_a_shell(cri: Cri, busybox: str) -> None:
    """A shell ends with 137 when its command was killed; it is no signal to the init."""
    script = "dd if=/dev/zero of=/dev/null bs=64M count=1; exit $?"
    _, container_id = await pod(cri, "oom-shell", busybox, ["sh", "-c", script], linux=limited(16 << 20))
    status = await exited(cri, container_id)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


async def test_a_killed_child_of_a_container_that_goes_on_is_no_oomkilled(cri: Cri, busybox: str) -> None:
    script = "dd if=/dev/zero of=/dev/null bs=64M count=1; echo child $?; exit 4"
    _, container_id = await pod(cri, "oom-child", busybox, ["sh", "-c", script], linux=limited(16 << 20))
    status = await exited(cri, container_id)
    assert (status.exit_code, status.reason) == (4, "Error")


async def test_a_start_that_fails_is_128_starterror_with_the_runtimes_message(cri: Cri, busybox: str) -> None:
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("starterror", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    container_id = await cri.create(sandbox_id, cri.container_config("c", busybox, ["/nosuch"]), sandbox)
    with pytest.raises(grpc.aio.AioRpcError, match="/nosuch"):
        await cri.start(container_id)
    status = await cri.status(container_id)
    assert (status.state, status.exit_code, status.reason) == (cri_pb.CONTAINER_EXITED, 128, "StartError")
    assert "/nosuch" in status.message
    assert 0 < status.created_at <= status.started_at <= status.finished_at


async def test_an_end_that_nobody_saw_is_255_unknown(cri: Cri, node: TestNode, busybox: str) -> None:
    _, container_id = await pod(cri, "unseen", busybox, ["sleep", "1000"])
    shim = int((node.run_dir / "shimd" / "shims" / container_id / "pid").read_text().split()[0])
    pid = await init_pid(cri, container_id)
    os.kill(shim, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    status = await exited(cri, container_id)
    assert (status.exit_code, status.reason) == (255, "Unknown")


async def test_a_container_whose_shim_does_not_tell_is_unknown_until_it_does(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    since_ns = time.time_ns()
    _, container_id = await pod(cri, "untold", busybox, ["sleep", "1000"])
    with silent_shim(node, container_id):
        os.kill(await init_pid(cri, container_id), signal.SIGKILL)
        await unknown(cri, container_id)
    status = await exited(cri, container_id)
    assert (status.exit_code, status.reason) == (137, "Error")
    seen = await events(node, container_id, since_ns)
    assert seen == ["container.created", "container.started", "container.unknown", "container.exited"]


async def test_an_unknown_container_is_stopped_and_removed(cri: Cri, node: TestNode, busybox: str) -> None:
    _, container_id = await pod(cri, "untold-stop", busybox, ["sleep", "1000"])
    with silent_shim(node, container_id):
        os.kill(await init_pid(cri, container_id), signal.SIGKILL)
        await unknown(cri, container_id)
        await cri.stop(container_id, 30)
        status = await cri.status(container_id)
        assert (status.exit_code, status.reason) == (255, "Unknown")
    await cri.remove(container_id)
    assert not (node.run_dir / "shimd" / "shims" / container_id).exists()


async def test_a_container_whose_shim_hangs_can_be_stopped(cri: Cri, node: TestNode, busybox: str) -> None:
    _, container_id = await pod(cri, "hung-stop", busybox, ["sleep", "1000"])
    init = await init_pid(cri, container_id)
    with silent_shim(node, container_id):
        assert (await cri.status(container_id)).state == cri_pb.CONTAINER_RUNNING
        await cri.stop(container_id, 0)
        assert (await cri.status(container_id)).state == cri_pb.CONTAINER_EXITED
        assert not processes.started_ticks(init)


async def init_pid(cri: Cri, container_id: str) -> int:
    request = cri_pb.ContainerStatusRequest(container_id=container_id, verbose=True)
    return int(json.loads((await cri.call(cri.runtime.ContainerStatus, request)).info["info"])["pid"])


def _stopped(pid: int) -> int:
    handle = os.pidfd_open(pid)
    signal.pidfd_send_signal(handle, signal.SIGSTOP)
    return handle


@contextmanager
def silent_shim(node: TestNode, container_id: str) -> Iterator[None]:
    """A shim that hangs, keeper and worker, until the end or until somebody kills it."""
    keeper = int((node.run_dir / "shimd/shims" / container_id / "pid").read_text().split()[0])
    handles = [_stopped(keeper)]
    program = Path(f"/proc/{keeper}/exe").readlink()
    for child in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if Path(f"/proc/{child}/exe").readlink() == program:
                handles.append(_stopped(int(child)))
    try:
        yield
    finally:
        for handle in handles:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGCONT)
            os.close(handle)


async def unknown(cri: Cri, container_id: str) -> None:
    await reached(cri, container_id, cri_pb.CONTAINER_UNKNOWN)
    listed = await cri.call(cri.runtime.ListContainers, cri_pb.ListContainersRequest())
    assert [c.state for c in listed.containers if c.id == container_id] == [cri_pb.CONTAINER_UNKNOWN]


async def test_the_signal_comes_once_then_the_kill_after_the_grace(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    _, container_id = await pod(cri, "grace", busybox, ["sh", "-c", COUNTS_TERMS])
    await logged(node, "grace", "begun")
    began = time.monotonic()
    await cri.stop(container_id, 2)
    assert 2 <= time.monotonic() - began < 10
    status = await cri.status(container_id)
    assert (status.state, status.exit_code) == (cri_pb.CONTAINER_EXITED, 137)
    lines = (node.logs / "grace" / "c.log").read_text()
    assert lines.count("term") == 1


async def test_a_timeout_of_zero_kills_at_once_without_the_signal(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    _, container_id = await pod(cri, "atonce", busybox, ["sh", "-c", COUNTS_TERMS])
    await logged(node, "atonce", "begun")
    await cri.stop(container_id, 0)
    assert (await cri.status(container_id)).exit_code == 137
    assert "term" not in (node.logs / "atonce" / "c.log").read_text()


async def test_stops_at_once_share_a_signal_and_the_shortest_grace(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    _, container_id = await pod(cri, "shared", busybox, ["sh", "-c", COUNTS_TERMS])
    await logged(node, "shared", "begun")
    began = time.monotonic()
    async with anyio.create_task_group() as group:
        group.start_soon(cri.stop, container_id, 60)
        await logged(node, "shared", "term 1")
        for timeout_s in (50, 1, 30):
            group.start_soon(cri.stop, container_id, timeout_s)
    assert time.monotonic() - began < 20
    assert (await cri.status(container_id)).exit_code == 137
    assert (node.logs / "shared" / "c.log").read_text().count("term") == 1


async def test_a_stop_goes_on_after_its_callers_deadline(cri: Cri, node: TestNode, busybox: str) -> None:
    _, container_id = await pod(cri, "stop-late", busybox, ["sh", "-c", COUNTS_TERMS])
    await logged(node, "stop-late", "begun")
    request = cri_pb.StopContainerRequest(container_id=container_id, timeout=2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.call(cri.runtime.StopContainer, request, timeout_s=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await exited(cri, container_id)).exit_code == 137


@pytest.mark.parametrize("handler", ["crun", "runc"])
async def test_a_paused_container_is_thawed_to_be_stopped(
    cri: Cri, node: TestNode, busybox: str, handler: str
) -> None:
    script = "trap 'exit 7' TERM; echo begun; while :; do sleep 0.05; done"
    name = f"paused-{handler}"
    for timeout_s, code in ((20, 7), (0, 137)):
        sandbox_id, container_id = await pod(cri, name, busybox, ["sh", "-c", script], handler=handler)
        await logged(node, name, "begun")
        root = node.run_dir / "runtimed" / "oci" / handler
        freezer = f"/sys/fs/cgroup/freezer/slipway/{container_id}/freezer.state"
        if os.path.exists(freezer):
            with open(freezer, "w") as state:
                state.write("FROZEN")
        else:
            await anyio.run_process([handler, "--root", str(root), "pause", container_id])
        with anyio.fail_after(patience(15)):
            await cri.stop(container_id, timeout_s)
        assert (await cri.status(container_id)).exit_code == code
        await cri.remove_sandbox(sandbox_id)


async def test_execs_die_with_the_container(cri: Cri, busybox: str) -> None:
    _, container_id = await pod(cri, "execs-die", busybox, ["sleep", "1000"])
    ended: list[grpc.StatusCode | int] = []

    async def wait() -> None:
        try:
            ended.append(
                (await cri.exec(container_id, ["sh", "-c", "echo up > /tmp/up; sleep 1000"])).exit_code
            )
        except grpc.aio.AioRpcError as exc:
            ended.append(exc.code())

    with anyio.fail_after(patience(30)):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await succeeds(cri, container_id, "cat", "/tmp/up")
            await cri.stop(container_id, 0)
    assert ended == [137]


async def test_a_pod_that_says_nothing_of_namespaces_shares_pids_so_that_term_ends_its_containers(
    cri: Cri, busybox: str
) -> None:
    """POD is CRI's zero: an init with the handlers of a plain program would be deaf to SIGTERM as pid 1."""
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("plain")
    sandbox.linux.Clear()
    sandbox_id = await cri.run_sandbox(sandbox)
    container_id = await cri.create(
        sandbox_id, cri.container_config("c", busybox, ["sleep", "1000"]), sandbox
    )
    await cri.start(container_id)
    with anyio.fail_after(patience(20)):
        await cri.stop(container_id, 60)
    assert (await cri.status(container_id)).exit_code == 143
