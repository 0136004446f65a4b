"""PID namespaces over CRI: a pod's, a container's, the node's, another container's."""

import os
from typing import TypeAlias

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri
from tests.support.node import TestNode

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root]

CODE = grpc.StatusCode
HANDLERS = pytest.mark.parametrize("handler", ["crun", "runc"])
Mode: TypeAlias = cri_pb.NamespaceMode.ValueType
POD, CONTAINER, NODE, TARGET = cri_pb.POD, cri_pb.CONTAINER, cri_pb.NODE, cri_pb.TARGET


class Pod:
    """A sandbox and what is needed to put containers into it."""

    def __init__(self, cri: Cri, image: str, config: cri_pb.PodSandboxConfig, sandbox_id: str) -> None:
        self._cri, self._image, self._config, self.id = cri, image, config, sandbox_id

    async def create(self, name: str, command: list[str], options: cri_pb.NamespaceOption | None) -> str:
        config = self._cri.container_config(name, self._image, command)
        if options is not None:
            config.linux.security_context.namespace_options.CopyFrom(options)
        return await self._cri.create(self.id, config, self._config)

    async def run(self, name: str, command: list[str], options: cri_pb.NamespaceOption | None) -> str:
        container_id = await self.create(name, command, options)
        await self._cri.start(container_id)
        return container_id

    async def ps(self, container_id: str) -> str:
        return (await self._cri.exec(container_id, ["ps", "-o", "pid,args"])).stdout.decode()


async def pod(cri: Cri, name: str, image: str, pid: Mode | None, handler: str = "") -> Pod:
    await cri.pull(image)
    config = cri.sandbox_config(name, host_network=True)
    if pid is None:
        config.linux.ClearField("security_context")
    else:
        config.linux.security_context.namespace_options.pid = pid
    return Pod(cri, image, config, await cri.run_sandbox(config, handler))


def options(pid: Mode, target_id: str = "") -> cri_pb.NamespaceOption:
    return cri_pb.NamespaceOption(network=NODE, pid=pid, target_id=target_id)


@HANDLERS
async def test_containers_of_a_pod_see_each_other_below_the_pause(
    cri: Cri, busybox: str, handler: str
) -> None:
    shared = await pod(cri, f"pids-pod-{handler}", busybox, POD, handler)
    one = await shared.run("one", ["sleep", "1111"], options(POD))
    two = await shared.run("two", ["sleep", "2222"], options(POD))
    for container_id in (one, two):
        seen = await shared.ps(container_id)
        assert "sleep 1111" in seen
        assert "sleep 2222" in seen
    first = (await cri.exec(one, ["cat", "/proc/1/comm"])).stdout
    assert first == b"slipway-pause\n"
    assert (await cri.exec(one, ["kill", "-9", "1"])).exit_code in (0, 1)
    assert (await cri.status(two)).state == cri_pb.CONTAINER_RUNNING  # pid 1 is not for its namespace to kill


@HANDLERS
async def test_the_pause_reaps_what_containers_leave(cri: Cri, busybox: str, handler: str) -> None:
    shared = await pod(cri, f"pids-zombies-{handler}", busybox, POD, handler)
    one = await shared.run("one", ["sleep", "1000"], options(POD))
    script = "for i in 1 2 3 4 5; do (sh -c 'exit 0' & exec true) & done; wait"
    for _ in range(3):
        assert not (await cri.exec(one, ["sh", "-c", script])).exit_code
    states = (await cri.exec(one, ["sh", "-c", "cat /proc/[0-9]*/stat"])).stdout.decode().splitlines()
    assert not [line for line in states if line.rpartition(")")[2].split()[0] == "Z"]


async def test_a_pod_that_says_nothing_shares(cri: Cri, busybox: str) -> None:
    """POD is CRI's zero, also of a message that is not there."""
    silent = await pod(cri, "pids-silent", busybox, None)
    one = await silent.run("one", ["sleep", "1111"], None)
    two = await silent.run("two", ["sleep", "2222"], None)
    assert "sleep 1111" in await silent.ps(two)
    assert "sleep 2222" in await silent.ps(one)


async def test_a_container_of_its_own_sees_itself_only(cri: Cri, busybox: str) -> None:
    shared = await pod(cri, "pids-own", busybox, POD)
    await shared.run("one", ["sleep", "1111"], options(POD))
    own = await shared.run("own", ["sleep", "3333"], options(CONTAINER))
    seen = await shared.ps(own)
    assert "1 sleep 3333" in seen
    assert "1111" not in seen


async def test_the_nodes_processes_are_seen_by_who_asks(cri: Cri, busybox: str) -> None:
    node = await pod(cri, "pids-node", busybox, NODE)
    container_id = await node.run("one", ["sleep", "1000"], options(NODE))
    assert not (
        await cri.exec(container_id, ["test", "-d", f"/proc/{os.getpid()}/task/{os.getpid()}"])
    ).exit_code


async def test_a_target_that_ends_before_the_start_is_not_mistaken_for_another_process(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    apart = await pod(cri, "pids-ended", busybox, CONTAINER)
    one = await apart.run("one", ["sleep", "1111"], options(CONTAINER))
    debug = await apart.create("debug", ["sleep", "4444"], options(TARGET, one))
    await cri.stop(one)
    with pytest.raises(grpc.aio.AioRpcError):
        await cri.start(debug)
    assert (await cri.status(debug)).reason == "StartError"
    await cri.remove_all()
    assert not [path for path in node.leftovers()["mounts"] if debug in path]


@HANDLERS
async def test_a_debug_container_joins_the_one_that_it_targets(cri: Cri, busybox: str, handler: str) -> None:
    apart = await pod(cri, f"pids-target-{handler}", busybox, CONTAINER, handler)
    one = await apart.run("one", ["sleep", "1111"], options(CONTAINER))
    debug = await apart.run("debug", ["sleep", "4444"], options(TARGET, one))
    assert "1 sleep 1111" in await apart.ps(debug)
    assert "sleep 4444" in await apart.ps(one)
    await cri.stop(one)
    assert (await cri.status(one)).state == cri_pb.CONTAINER_EXITED
    with pytest.raises(grpc.aio.AioRpcError, match="target_id") as caught:
        await apart.create("late", ["true"], options(TARGET, one))
    assert caught.value.code() is CODE.FAILED_PRECONDITION


async def test_a_target_is_a_container_of_the_same_pod(cri: Cri, busybox: str) -> None:
    one, other = await pod(cri, "pids-a", busybox, CONTAINER), await pod(cri, "pids-b", busybox, CONTAINER)
    foreign = await other.run("x", ["sleep", "1000"], options(CONTAINER))
    for target in (foreign, "feedface"):
        with pytest.raises(grpc.aio.AioRpcError, match="target_id") as caught:
            await one.create("debug", ["true"], options(TARGET, target))
        assert caught.value.code() is CODE.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError, match="target_id") as caught:
        await one.create("debug", ["true"], options(TARGET))
    assert caught.value.code() is CODE.INVALID_ARGUMENT
