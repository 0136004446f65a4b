"""Runtime handlers: crun, runc and runsc by name, side by side."""

from functools import partial

import anyio
import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri
from runtimed.oci import capabilities
from tests.e2e.test_e2e_pods import exited, pod
from tests.e2e.test_e2e_security import Context, run
from tests.e2e.test_e2e_streaming import (
    attach_url,
    cause,
    connect,
    exec_url,
    forward_url,
    forwarding,
    in_thread,
    spdy_exec,
)
from tests.support import logs
from tests.support.eventually import eventually, until
from tests.support.node import TestNode

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]

HANDLERS = ("crun", "runc", "runsc")
SCRIPT = "trap 'echo bye; exit 7' TERM; echo begun; while :; do sleep 0.1; done"


def log_of(node: TestNode, name: str) -> list[str]:
    return logs.untimed(node.logs / name / "c.log")


@pytest.mark.parametrize("host_network", [True, False], ids=["host", "cni"])
async def test_a_pod_of_each_handler_runs_beside_the_others(
    cri: Cri, node: TestNode, busybox: str, host_network: bool
) -> None:
    network = "host" if host_network else "cni"
    made: dict[str, str] = {}

    async def one(handler: str) -> None:
        _, made[handler] = await pod(
            cri,
            f"{handler}-{network}",
            busybox,
            ["sh", "-c", SCRIPT],
            handler=handler,
            host_network=host_network,
        )

    def begun(handler: str) -> bool:
        return log_of(node, f"{handler}-{network}") == ["stdout F begun"]

    async with anyio.create_task_group() as group:
        for handler in HANDLERS:
            group.start_soon(one, handler)
    for handler in HANDLERS:
        eventually(partial(begun, handler), what=handler)
        answer = await cri.exec(made[handler], ["sh", "-c", "echo in; echo err >&2; exit 5"])
        assert (answer.stdout, answer.stderr, answer.exit_code) == (b"in\n", b"err\n", 5), handler
    kernels = {h: (await cri.exec(made[h], ["sh", "-c", "cat /proc/version"])).stdout for h in HANDLERS}
    assert kernels["crun"] == kernels["runc"] != kernels["runsc"]
    for handler in HANDLERS:
        await cri.stop(made[handler], 30)
        status = await exited(cri, made[handler])
        assert (status.exit_code, status.reason) == (7, "Error"), handler
        assert log_of(node, f"{handler}-{network}")[-1] == "stdout F bye"


@pytest.mark.parametrize("handler", HANDLERS)
async def test_an_exec_past_its_timeout_leaves_no_process(cri: Cri, busybox: str, handler: str) -> None:
    _, container_id = await pod(cri, f"late-{handler}", busybox, ["sleep", "1000"], handler=handler)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.exec(
            container_id, ["sh", "-c", "(sleep 777; true) & sh -c 'sleep 777; true'; true"], timeout_s=1
        )
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    listed = await cri.exec(container_id, ["ps"])
    assert b"sleep 1000" in listed.stdout
    assert b"777" not in listed.stdout


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_container_and_an_exec_have_terminals(
    cri: Cri, node: TestNode, busybox: str, handler: str
) -> None:
    name = f"tty-{handler}"
    _, container_id = await pod(
        cri, name, busybox, ["sh", "-c", "test -t 1 && echo terminal; sleep 1000"], handler=handler, tty=True
    )
    eventually(lambda: log_of(node, name) == ["stdout F terminal\r"], what="the terminal's output")
    done = node.slipway("exec", "-t", container_id, "sh", "-c", "test -t 0 && echo too; exit 3")
    assert (done.stdout, done.returncode) == ("too\n", 3), done.stderr


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_deaf_container_is_killed_and_leaves_nothing(
    cri: Cri, node: TestNode, busybox: str, handler: str
) -> None:
    sandbox_id, container_id = await pod(
        cri,
        f"deaf-{handler}",
        busybox,
        ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"],
        handler=handler,
    )
    await cri.stop(container_id, 1)
    assert (await cri.status(container_id)).exit_code == 137
    await cri.remove(container_id)
    await cri.remove_sandbox(sandbox_id)
    assert not [name for names in node.leftovers().values() for name in names if container_id in name]


async def test_a_privileged_container_runs_in_a_kernel_of_its_own(cri: Cri, busybox: str) -> None:
    container_id = await run(cri, "privileged-runsc", busybox, Context(privileged=True), "runsc")
    found = (await cri.exec(container_id, ["grep", "CapEff", "/proc/self/status"])).stdout
    assert int(found.split()[1], 16) >> capabilities.NAMES.index("CAP_SYS_ADMIN") & 1


async def test_streams_work_in_a_kernel_of_its_own(cri: Cri, node: TestNode, busybox: str) -> None:
    script = "nc -ll -p 8080 -e cat & echo begun; exec cat"
    sandbox_id, container_id = await pod(
        cri,
        "streams-runsc",
        busybox,
        ["sh", "-c", script],
        handler="runsc",
        host_network=False,
        stdin=True,
        stdin_once=True,
    )
    eventually(lambda: log_of(node, "streams-runsc") == ["stdout F begun"], what="the start")
    names = ("error", "stdin", "stdout")
    url = await exec_url(cri, container_id, ["sh", "-c", "cat; exit 3"], stdin=True)
    ran = await in_thread(lambda: spdy_exec(url, *names, stdin=b"x" * 1_000_000))
    assert (len(ran["stdout"]), cause(ran["error"])) == (1_000_000, ("NonZeroExitCode", "3"))

    def echoed(url: str) -> bytes:
        with forwarding(url, "spdy") as client:
            data, _ = connect(client, 8080)
            client.write(data, b"there and back", fin=True)
            return client.collect(data)[data]

    async def forwarded() -> bytes:
        return await in_thread(echoed, await forward_url(cri, sandbox_id))

    assert await until(forwarded, "nc to listen") == b"there and back"
    url = await attach_url(cri, container_id, stdin=True)
    attached = await in_thread(lambda: spdy_exec(url, *names, stdin=b"typed\n"))
    assert attached["stdout"] == b"typed\n"
    assert log_of(node, "streams-runsc") == ["stdout F begun", "stdout F typed"]


async def test_features_are_told_of_each_handler_sorted_and_of_the_default(cri: Cri) -> None:
    status = await cri.call(cri.runtime.Status, cri_pb.StatusRequest())
    features = {h.name: h.features.recursive_read_only_mounts for h in status.runtime_handlers}
    assert list(features) == ["", *HANDLERS]
    assert features == {"": True, "crun": True, "runc": True, "runsc": False}
