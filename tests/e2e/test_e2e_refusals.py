"""Bad input: the right code, one sentence that names the thing, and nothing left behind."""

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root]

CODE = grpc.StatusCode


def privileges(**fields) -> cri_pb.LinuxContainerConfig:
    return cri_pb.LinuxContainerConfig(security_context=cri_pb.LinuxContainerSecurityContext(**fields))


def profile(path: str) -> cri_pb.SecurityProfile:
    return cri_pb.SecurityProfile(profile_type=cri_pb.SecurityProfile.Localhost, localhost_ref=path)


REFUSED = {
    "unknown user": (privileges(run_as_username="nosuchuser"), {}, "nosuchuser"),
    "user beyond int32": (privileges(run_as_user=cri_pb.Int64Value(value=1 << 32)), {}, str(1 << 32)),
    "group without user": (privileges(run_as_group=cri_pb.Int64Value(value=5)), {}, "run_as_group"),
    "unknown capability": (
        privileges(capabilities=cri_pb.Capability(add_capabilities=["CAP_FLYING"])),
        {},
        "CAP_FLYING",
    ),
    "missing seccomp profile": (
        privileges(seccomp=profile("/nonexistent/p.json")),
        {},
        "/nonexistent/p.json",
    ),
    "missing device": (
        None,
        {
            "devices": [
                cri_pb.Device(host_path="/dev/nosuchdevice", container_path="/dev/x", permissions="rwm")
            ]
        },
        "/dev/nosuchdevice",
    ),
    "log path outside": (None, {"log_path": "../../escape.log"}, "escape.log"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_bad_container_is_refused_by_name(cri, node, busybox, case: str) -> None:
    linux, fields, named = REFUSED[case]
    await cri.pull(busybox)
    sandbox = cri.sandbox_config(f"bad-{case.replace(' ', '-')}", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    config = cri.container_config("c", busybox, ["true"])
    if linux is not None:
        config.linux.CopyFrom(linux)
    config.MergeFrom(cri_pb.ContainerConfig(**fields))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.create(sandbox_id, config, sandbox)
    assert caught.value.code() in (CODE.INVALID_ARGUMENT, CODE.NOT_FOUND)
    assert named in caught.value.details()
    assert not (await cri.call(cri.runtime.ListContainers, cri_pb.ListContainersRequest())).containers
    left = node.leftovers()
    assert not left["bundles"]
    assert not left["snapshots"]


async def test_an_unknown_handler_is_refused_by_name(cri) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="nosuchhandler") as caught:
        await cri.run_sandbox(cri.sandbox_config("handler"), "nosuchhandler")
    assert caught.value.code() in (CODE.INVALID_ARGUMENT, CODE.NOT_FOUND)
    assert not (await cri.call(cri.runtime.ListPodSandbox, cri_pb.ListPodSandboxRequest())).items


async def test_an_unknown_image_is_not_found_by_name(cri, shop) -> None:
    for reference in (f"{shop.address}/no/such:thing", f"{shop.address}/demo/busybox:nosuchtag"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cri.pull(reference)
        assert caught.value.code() is CODE.NOT_FOUND
        assert reference in caught.value.details()


async def test_unknown_ids_are_not_found(cri) -> None:
    for method, request in (
        (cri.runtime.ContainerStatus, cri_pb.ContainerStatusRequest(container_id="beef")),
        (cri.runtime.StartContainer, cri_pb.StartContainerRequest(container_id="beef")),
        (cri.runtime.ExecSync, cri_pb.ExecSyncRequest(container_id="beef", cmd=["true"])),
        (cri.runtime.PodSandboxStatus, cri_pb.PodSandboxStatusRequest(pod_sandbox_id="beef")),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="beef") as caught:
            await cri.call(method, request)
        assert caught.value.code() is CODE.NOT_FOUND


async def test_a_command_that_is_not_there_is_a_start_error(cri, busybox) -> None:
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("nocommand", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    container_id = await cri.create(
        sandbox_id, cri.container_config("c", busybox, ["/no/such/command"]), sandbox
    )
    with pytest.raises(grpc.aio.AioRpcError, match="/no/such/command"):
        await cri.start(container_id)
    status = await cri.status(container_id)
    assert (status.state, status.exit_code, status.reason) == (cri_pb.CONTAINER_EXITED, 128, "StartError")
