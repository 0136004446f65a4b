"""FEATURES 4.1, 4.3 and 4.5: a network that is slow, or fails, while sandboxes are made and stopped."""

from collections.abc import Awaitable, Iterator

import anyio
import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Answer, Cri
from devtools.registry import Registry
from tests.e2e.kubelet.test_kubelet_reboot import sandbox_status
from tests.e2e.test_e2e_pods import pod
from tests.support.cniplugin import Plugin
from tests.support.eventually import eventually
from tests.support.node import TestNode, running_node
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    return Plugin(tmp_path_factory.mktemp("plugin") / "plugin")


@pytest.fixture(scope="module")
def node(shop: Registry, installed: Plugin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNode]:
    with running_node(tmp_path_factory.mktemp("node"), settings=installed.settings) as running:
        installed.join(running)
        yield running


@pytest.fixture
def plugin(installed: Plugin, cri: Cri) -> Iterator[Plugin]:
    """Told nothing at the end, before `cri` removes what is there."""
    yield installed
    for order in installed.directory.glob("*-*"):
        order.unlink()


async def listed(cri: Cri) -> list[cri_pb.PodSandbox]:
    return list((await cri.call(cri.runtime.ListPodSandbox, cri_pb.ListPodSandboxRequest())).items)


async def late(call: Awaitable[Answer]) -> None:
    """A call that does not meet its deadline."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_retry_after_the_deadline_joins_the_set_up_that_goes_on(cri: Cri, plugin: Plugin) -> None:
    hold = plugin.directory / "hold-ADD"
    hold.touch()
    request = cri_pb.RunPodSandboxRequest(config=cri.sandbox_config("held"))
    await late(cri.call(cri.runtime.RunPodSandbox, request, timeout_s=0.5))
    await late(cri.call(cri.runtime.RunPodSandbox, request, timeout_s=0.5))
    assert not await listed(cri)  # neither ready nor failed yet
    hold.unlink()
    answer = await cri.call(cri.runtime.RunPodSandbox, request)
    assert [item.id for item in await listed(cri)] == [answer.pod_sandbox_id]
    assert plugin.calls(answer.pod_sandbox_id) == ["ADD"]


async def test_a_set_up_that_fails_after_the_deadline_is_cleaned_up_all_the_same(
    node: TestNode, cri: Cri, plugin: Plugin
) -> None:
    hold = plugin.directory / "hold-ADD"
    for name in ("hold-ADD", "fail-ADD"):
        (plugin.directory / name).touch()
    request = cri_pb.RunPodSandboxRequest(config=cri.sandbox_config("fails-late"))
    await late(cri.call(cri.runtime.RunPodSandbox, request, timeout_s=0.5))
    sandbox_id = eventually(lambda: node.leftovers()["sandboxes"], what="the sandbox being made")[0]
    hold.unlink()
    eventually(lambda: not node.leftovers()["sandboxes"], what="the way back")
    eventually(lambda: not node.leftovers()["records"], what="no record")
    assert plugin.calls(sandbox_id) == ["ADD", "DEL"]
    assert not await listed(cri)


async def test_a_stop_that_is_late_goes_on_and_releases_the_network(
    cri: Cri, plugin: Plugin, busybox: str
) -> None:
    sandbox_id, _ = await pod(cri, "slow-stop", busybox, ["sleep", "1000"], host_network=False)
    hold = plugin.directory / "hold-DEL"
    hold.touch()
    request = cri_pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
    await late(cri.call(cri.runtime.StopPodSandbox, request, timeout_s=0.5))
    hold.unlink()
    with anyio.fail_after(patience(20)):
        await cri.call(cri.runtime.StopPodSandbox, request)
    assert (await sandbox_status(cri, sandbox_id)).state == cri_pb.SANDBOX_NOTREADY
    assert plugin.calls(sandbox_id) == ["ADD", "DEL"]


async def test_a_sandbox_that_cannot_be_undone_stays_notready_until_it_can(
    node: TestNode, cri: Cri, plugin: Plugin, busybox: str
) -> None:
    fail_add, fail_del = (plugin.directory / f"fail-{verb}" for verb in ("ADD", "DEL"))
    fail_add.touch()
    config = cri.sandbox_config("undone")
    with pytest.raises(grpc.aio.AioRpcError, match="told to fail"):
        await cri.run_sandbox(config)
    assert not await listed(cri)
    assert not node.leftovers()["sandboxes"]
    fail_del.touch()
    with pytest.raises(grpc.aio.AioRpcError, match="told to fail"):
        await cri.run_sandbox(config)
    [(stuck, state)] = [(item.id, item.state) for item in await listed(cri)]
    assert state == cri_pb.SANDBOX_NOTREADY
    with pytest.raises(grpc.aio.AioRpcError, match="told to fail"):
        await cri.remove_sandbox(stuck)
    fail_del.unlink()
    before = plugin.calls(stuck)
    await cri.remove_sandbox(stuck)
    assert plugin.calls(stuck) == [*before, "DEL"]
    assert not node.leftovers()["sandboxes"]
    fail_add.unlink()
    assert (await sandbox_status(cri, await cri.run_sandbox(config))).network.ip


async def test_a_stop_tries_again_what_an_earlier_one_could_not_release(
    cri: Cri, plugin: Plugin, busybox: str
) -> None:
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
