"""Bad input: the right code, one sentence that names the thing, and nothing left behind."""

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri
from devtools.registry import Registry
from tests.support import refusals
from tests.support.node import TestNode

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root]

CODE = grpc.StatusCode
Config = cri_pb.ContainerConfig
Context = cri_pb.LinuxContainerSecurityContext
Resources = cri_pb.LinuxContainerResources
NO_MODE = cri_pb.NamespaceMode.ValueType(7)


def privileges(wanted: Context) -> Config:
    return Config(linux=cri_pb.LinuxContainerConfig(security_context=wanted))


def profile(path: str) -> cri_pb.SecurityProfile:
    return cri_pb.SecurityProfile(profile_type=cri_pb.SecurityProfile.Localhost, localhost_ref=path)


def limits(wanted: Resources) -> Config:
    return Config(linux=cri_pb.LinuxContainerConfig(resources=wanted))


LONG = "a" * 256
REFUSED: dict[str, tuple[Config, str]] = {
    "unknown user": (privileges(Context(run_as_username="nosuchuser")), "nosuchuser"),
    "user beyond int32": (privileges(Context(run_as_user=cri_pb.Int64Value(value=1 << 32))), str(1 << 32)),
    "group without user": (privileges(Context(run_as_group=cri_pb.Int64Value(value=5))), "run_as_group"),
    "unknown capability": (
        privileges(Context(capabilities=cri_pb.Capability(add_capabilities=["CAP_FLYING"]))),
        "CAP_FLYING",
    ),
    "missing seccomp profile": (
        privileges(Context(seccomp=profile("/nonexistent/p.json"))),
        "/nonexistent/p.json",
    ),
    "missing device": (
        Config(
            devices=[cri_pb.Device(host_path="/dev/nosuchdevice", container_path="/dev/x", permissions="rwm")]
        ),
        "/dev/nosuchdevice",
    ),
    "log path outside": (Config(log_path="../../escape.log"), "escape.log"),
    "log path too long": (Config(log_path=LONG), "log_path"),
    "mount at a long name": (
        Config(mounts=[cri_pb.Mount(container_path=f"/{LONG}", host_path="/tmp")]),
        "mounts.container_path",
    ),
    "mount at a long path": (
        Config(mounts=[cri_pb.Mount(container_path="/a" * 2048, host_path="/tmp")]),
        "mounts.container_path",
    ),
    "mount of a long path": (
        Config(mounts=[cri_pb.Mount(container_path="/a", host_path="/a" * 2048)]),
        "mounts.host_path",
    ),
    "device at a long name": (
        Config(
            devices=[cri_pb.Device(host_path="/dev/null", container_path=f"/dev/{LONG}", permissions="rw")]
        ),
        "devices.container_path",
    ),
    "long directory": (Config(working_dir=f"/{LONG}"), "working_dir"),
    "long masked path": (privileges(Context(masked_paths=[f"/{LONG}"])), "masked_paths"),
    "long word": (Config(args=["a" * (128 << 10)]), "args: 'aaa"),
    "long variable": (Config(envs=[cri_pb.KeyValue(key="K", value=b"v" * (128 << 10))]), "envs: 'K'"),
    "many variables": (
        Config(envs=[cri_pb.KeyValue(key=f"K{n}", value=b"v") for n in range(40_000)]),
        "envs: 40000 variables",
    ),
    "much for a program": (Config(args=["a" * (100 << 10)] * 70), "args"),
    "pid mode": (
        privileges(Context(namespace_options=cri_pb.NamespaceOption(pid=NO_MODE))),
        "namespace_options.pid: mode 7",
    ),
    "network mode": (
        privileges(Context(namespace_options=cri_pb.NamespaceOption(network=NO_MODE))),
        "namespace_options.network: mode 7",
    ),
    "ipc mode": (
        privileges(Context(namespace_options=cri_pb.NamespaceOption(ipc=NO_MODE))),
        "namespace_options.ipc: mode 7",
    ),
    "absent processor": (limits(Resources(cpuset_cpus="0,9999")), "cpuset_cpus '0,9999'"),
    "absent memory node": (limits(Resources(cpuset_mems="99")), "cpuset_mems '99'"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_bad_container_is_refused_by_name(cri: Cri, node: TestNode, busybox: str, case: str) -> None:
    wanted, named = REFUSED[case]
    await cri.pull(busybox)
    sandbox = cri.sandbox_config(f"bad-{case.replace(' ', '-')}", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    config = cri.container_config("c", busybox, ["true"])
    config.MergeFrom(wanted)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.create(sandbox_id, config, sandbox)
    assert caught.value.code() in (CODE.INVALID_ARGUMENT, CODE.NOT_FOUND)
    assert named in refusals.told(caught)
    assert not (await cri.call(cri.runtime.ListContainers, cri_pb.ListContainersRequest())).containers
    left = node.leftovers()
    assert not left["bundles"]
    assert not left["snapshots"]


@pytest.mark.parametrize("field", ["pid", "network", "ipc"])
async def test_a_sandbox_with_an_unknown_namespace_mode_is_refused(cri: Cri, field: str) -> None:
    for mode in (NO_MODE, cri_pb.TARGET):
        config = cri_pb.PodSandboxConfig(
            metadata=cri_pb.PodSandboxMetadata(name="mode", uid="u", namespace="n")
        )
        setattr(config.linux.security_context.namespace_options, field, mode)
        config.linux.security_context.namespace_options.target_id = "beef"
        with pytest.raises(grpc.aio.AioRpcError, match=rf"namespace_options\.{field}") as caught:
            await cri.run_sandbox(config)
        assert caught.value.code() is CODE.INVALID_ARGUMENT


async def test_a_request_of_more_than_16_mib_is_refused(cri: Cri) -> None:
    annotations = {"a": "a" * (16 << 20)}
    with pytest.raises(grpc.aio.AioRpcError, match="16777216") as caught:
        await cri.run_sandbox(cri_pb.PodSandboxConfig(annotations=annotations))
    assert caught.value.code() is CODE.RESOURCE_EXHAUSTED


async def test_an_unknown_handler_is_refused_by_name(cri: Cri) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="nosuchhandler") as caught:
        await cri.run_sandbox(cri.sandbox_config("handler"), "nosuchhandler")
    assert caught.value.code() in (CODE.INVALID_ARGUMENT, CODE.NOT_FOUND)
    assert not (await cri.call(cri.runtime.ListPodSandbox, cri_pb.ListPodSandboxRequest())).items


async def test_an_unknown_image_is_not_found_by_name(cri: Cri, shop: Registry) -> None:
    for reference in (f"{shop.address}/no/such:thing", f"{shop.address}/demo/busybox:nosuchtag"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cri.pull(reference)
        assert caught.value.code() is CODE.NOT_FOUND
        assert reference in refusals.told(caught)


async def test_unknown_ids_are_not_found(cri: Cri) -> None:
    sandbox_status = cri_pb.PodSandboxStatusRequest(pod_sandbox_id="beef")
    for call in (
        lambda: cri.status("beef"),
        lambda: cri.start("beef"),
        lambda: cri.exec("beef", ["true"]),
        lambda: cri.call(cri.runtime.PodSandboxStatus, sandbox_status),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="beef") as caught:
            await call()
        assert caught.value.code() is CODE.NOT_FOUND


async def test_a_command_that_is_not_there_is_a_start_error(cri: Cri, busybox: str) -> None:
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
