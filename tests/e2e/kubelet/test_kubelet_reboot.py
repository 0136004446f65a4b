"""FEATURES 4.10 and 4.3: after a reboot, and after the death of any service."""

import json
import os
import signal
from pathlib import Path

import anyio
import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import connect
from tests.e2e.test_e2e_faults import recovered
from tests.e2e.test_e2e_pods import exited, pod
from tests.support.eventually import eventually
from tests.support.node import running_node

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(240)]

PLUGIN = """#!/usr/bin/python3
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
given = json.load(sys.stdin)
with open(here / "calls", "a") as calls:
    calls.write(json.dumps([os.environ["CNI_COMMAND"], os.environ["CNI_CONTAINERID"], bool(os.environ.get("CNI_NETNS"))]) + "\\n")
if (here / ("fail-" + os.environ["CNI_COMMAND"])).exists():
    print(json.dumps({"cniVersion": "0.4.0", "code": 11, "msg": "told to fail"}))
    sys.exit(1)
if os.environ["CNI_COMMAND"] == "ADD":
    print(json.dumps(given["prevResult"]))
"""


class Plugin:
    """A last plugin of the chain that writes down its calls, and fails when it is told to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        program = directory / "told"
        program.write_text(PLUGIN)
        program.chmod(0o755)

    @property
    def settings(self) -> dict[str, str]:
        directories = [str(self.directory), "/opt/cni/bin", "/usr/lib/cni"]
        return {"SLIPWAY_RUNTIMED_CNI_BIN_DIRS": json.dumps(directories)}

    def join(self, node) -> None:
        path = next((node.data_dir / "cni").glob("*.conflist"))
        document = json.loads(path.read_text())
        document["plugins"].append({"type": "told"})
        path.write_text(json.dumps(document))

    def calls(self, sandbox_id: str) -> list[str]:
        lines = [json.loads(line) for line in (self.directory / "calls").read_text().splitlines()]
        return [command for command, container, _ in lines if container == sandbox_id]


async def sandbox_status(cri, sandbox_id: str):
    request = cri_pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
    return (await cri.call(cri.runtime.PodSandboxStatus, request)).status


async def not_ready(cri, sandbox_id: str) -> None:
    with anyio.fail_after(60):
        while (await sandbox_status(cri, sandbox_id)).state == cri_pb.SANDBOX_READY:
            await anyio.sleep(0.05)


async def test_after_a_reboot_no_sandbox_is_ready_and_the_network_is_released(
    shop, busybox, tmp_path: Path
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


async def test_a_sandbox_that_cannot_be_undone_stays_notready_until_it_can(
    shop, busybox, tmp_path: Path
) -> None:
    plugin = Plugin(tmp_path / "plugin")
    with running_node(tmp_path, settings=plugin.settings) as node:
        plugin.join(node)
        async with connect(node.socket, node.logs) as cri:
            fail_add, fail_del = (plugin.directory / f"fail-{verb}" for verb in ("ADD", "DEL"))
            fail_add.touch()
            config = cri.sandbox_config("undone")
            with pytest.raises(grpc.aio.AioRpcError, match="told to fail"):
                await cri.run_sandbox(config)
            assert not (await cri.call(cri.runtime.ListPodSandbox, cri_pb.ListPodSandboxRequest())).items
            assert not node.leftovers()["sandboxes"]
            fail_del.touch()
            with pytest.raises(grpc.aio.AioRpcError, match="told to fail"):
                await cri.run_sandbox(config)
            listed = (await cri.call(cri.runtime.ListPodSandbox, cri_pb.ListPodSandboxRequest())).items
            assert [item.state for item in listed] == [cri_pb.SANDBOX_NOTREADY]
            stuck = listed[0].id
            with pytest.raises(grpc.aio.AioRpcError, match="told to fail"):
                await cri.remove_sandbox(stuck)
            fail_del.unlink()
            before = plugin.calls(stuck)
            await cri.remove_sandbox(stuck)
            assert plugin.calls(stuck) == [*before, "DEL"]
            assert not node.leftovers()["sandboxes"]
            fail_add.unlink()
            assert (await sandbox_status(cri, await cri.run_sandbox(config))).network.ip
            await cri.remove_all()


async def test_a_stop_tries_again_what_an_earlier_one_could_not_release(
    shop, busybox, tmp_path: Path
) -> None:
    plugin = Plugin(tmp_path / "plugin")
    with running_node(tmp_path, settings=plugin.settings) as node:
        plugin.join(node)
        async with connect(node.socket, node.logs) as cri:
            sandbox_id, container_id = await pod(cri, "again", busybox, ["sleep", "1000"], host_network=False)
            (plugin.directory / "fail-DEL").touch()
            request = cri_pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
            with pytest.raises(grpc.aio.AioRpcError, match="told to fail"):
                await cri.call(cri.runtime.StopPodSandbox, request)
            assert (await cri.status(container_id)).state == cri_pb.CONTAINER_EXITED
            assert (await sandbox_status(cri, sandbox_id)).state == cri_pb.SANDBOX_NOTREADY
            (plugin.directory / "fail-DEL").unlink()
            await cri.call(cri.runtime.StopPodSandbox, request)
            await cri.call(cri.runtime.StopPodSandbox, request)
            assert plugin.calls(sandbox_id) == ["ADD", "DEL", "DEL"]
            await cri.remove_all()


@pytest.mark.parametrize("victim", ["imaged", "snapshotd", "runtimed", "shimd", "crid", "redis", "nats"])
async def test_a_ready_sandbox_has_its_ip_whatever_was_restarted(cri, node, busybox, victim: str) -> None:
    sandbox_id, container_id = await pod(cri, f"ip-{victim}", busybox, ["sleep", "1000"], host_network=False)
    before = await sandbox_status(cri, sandbox_id)
    assert before.network.ip
    died = node.kill(victim)
    eventually(lambda: node.pid(victim) != died, within_s=30, what=f"a new {victim}")
    await recovered(cri, container_id)
    after = await sandbox_status(cri, sandbox_id)
    assert (after.state, after.network.ip) == (cri_pb.SANDBOX_READY, before.network.ip)


async def test_a_pod_whose_shared_pid_namespace_ended_is_not_ready_soon(cri) -> None:
    config = cri.sandbox_config("pauseless", host_network=True)
    config.linux.security_context.namespace_options.pid = cri_pb.POD
    sandbox_id = await cri.run_sandbox(config)
    request = cri_pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
    info = (await cri.call(cri.runtime.PodSandboxStatus, request)).info["info"]
    os.kill(json.loads(info)["pid"], signal.SIGKILL)
    with anyio.fail_after(10):  # a reconciler alone takes a minute
        await not_ready(cri, sandbox_id)
