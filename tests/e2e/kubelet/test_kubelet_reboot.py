"""FEATURES 4.10 and 4.3: after a reboot, and after the death of any service."""

import json
import os
import signal
from pathlib import Path

import anyio
import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri, connect
from devtools.registry import Registry
from tests.e2e.test_e2e_faults import recovered
from tests.e2e.test_e2e_pods import exited, pod
from tests.support.cniplugin import Plugin
from tests.support.eventually import eventually, until
from tests.support.node import TestNode, running_node
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(240)]


async def sandbox_status(cri: Cri, sandbox_id: str) -> cri_pb.PodSandboxStatus:
    request = cri_pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
    return (await cri.call(cri.runtime.PodSandboxStatus, request)).status


async def not_ready(cri: Cri, sandbox_id: str) -> None:
    async def it_is() -> bool:
        return (await sandbox_status(cri, sandbox_id)).state == cri_pb.SANDBOX_NOTREADY

    await until(it_is, f"sandbox {sandbox_id} to be NOTREADY", within_s=60)


async def test_after_a_reboot_no_sandbox_is_ready_and_the_network_is_released(
    shop: Registry, busybox: str, tmp_path: Path
) -> None:
    plugin = Plugin(tmp_path / "plugin")
    with running_node(tmp_path, settings=plugin.settings) as node:
        plugin.join(node)
        async with connect(node.socket, node.logs) as cri:
            with_cni, running = await pod(cri, "reboot-cni", busybox, ["sleep", "1000"], host_network=False)
            config = cri.sandbox_config("reboot-host", host_network=True)
            config.linux.security_context.namespace_options.ipc = cri_pb.NODE
            on_host = await cri.run_sandbox(config)
            created = await cri.create(on_host, cri.container_config("c", busybox, ["true"]), config)
        node.reboot()
        async with connect(node.socket, node.logs) as cri:
            await recovered(cri, running)
            for sandbox_id in (with_cni, on_host):
                await not_ready(cri, sandbox_id)
            status = await exited(cri, running)
            assert (status.exit_code, status.reason) == (255, "Unknown")
            # what was created and never ran can only be removed: its bundle is gone
            assert (await cri.status(created)).state == cri_pb.CONTAINER_CREATED
            with pytest.raises(grpc.aio.AioRpcError, match="not ready") as caught:
                await cri.start(created)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert plugin.calls(with_cni) == ["ADD"]
            assert await node.differences() == []
            for container_id in (running, created):
                await cri.remove(container_id)
            for sandbox_id in (with_cni, on_host):
                await cri.remove_sandbox(sandbox_id)
            assert plugin.calls(with_cni) == ["ADD", "DEL"]
            left = node.leftovers()
            assert not any(left[kind] for kind in ("records", "snapshots", "sandboxes", "bundles", "cni")), (
                left
            )
            again, _ = await pod(cri, "reboot-cni", busybox, ["sleep", "1000"], host_network=False)
            assert (await sandbox_status(cri, again)).network.ip
            await cri.remove_all()
            assert await node.differences() == []


@pytest.mark.parametrize("victim", ["imaged", "snapshotd", "runtimed", "shimd", "crid", "redis", "nats"])
async def test_a_ready_sandbox_has_its_ip_whatever_was_restarted(
    cri: Cri, node: TestNode, busybox: str, victim: str
) -> None:
    sandbox_id, container_id = await pod(cri, f"ip-{victim}", busybox, ["sleep", "1000"], host_network=False)
    before = await sandbox_status(cri, sandbox_id)
    assert before.network.ip
    died = node.kill(victim)
    eventually(lambda: node.pid(victim) != died, within_s=30, what=f"a new {victim}")
    await recovered(cri, container_id)
    after = await sandbox_status(cri, sandbox_id)
    assert (after.state, after.network.ip) == (cri_pb.SANDBOX_READY, before.network.ip)
    assert await node.differences() == []


async def test_a_pod_whose_shared_pid_namespace_ended_is_not_ready_soon(cri: Cri, node: TestNode) -> None:
    config = cri.sandbox_config("pauseless", host_network=True)
    config.linux.security_context.namespace_options.pid = cri_pb.POD
    sandbox_id = await cri.run_sandbox(config)
    request = cri_pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
    info = (await cri.call(cri.runtime.PodSandboxStatus, request)).info["info"]
    os.kill(json.loads(info)["pid"], signal.SIGKILL)
    with anyio.fail_after(patience(10)):  # a reconciler alone takes a minute
        await not_ready(cri, sandbox_id)
    assert await node.differences() == []
