"""Privileges over CRI: what a container's processes may do, as the kernel itself tells from inside."""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path
from typing import Unpack

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import ContainerFields, Cri
from devtools.registry import Registry, busybox_layer, file, layer
from runtimed.oci.capabilities import NAMES, host_capabilities
from tests.support import refusals
from tests.support.node import TestNode

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root]

CODE = grpc.StatusCode
HANDLERS = pytest.mark.parametrize("handler", ["crun", "runc"])
Context = cri_pb.LinuxContainerSecurityContext
Profile = cri_pb.SecurityProfile
SERVICES = ("imaged", "snapshotd", "runtimed", "shimd", "opsd")
STATUS = ["cat", "/proc/self/status"]
PASSWD = b"root:x:0:0::/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n"
GROUP = b"root:x:0:\nweb:x:1000:\nextra:x:50000:web\n"


@pytest.fixture(scope="module")
def people(shop: Registry) -> str:
    """An image with users and groups, run as one of them by its own word."""
    trap = tarfile.TarInfo("trap")
    trap.type, trap.linkname = tarfile.SYMTYPE, "/proc/self/fd"
    entries = layer([file("etc/passwd", PASSWD), file("etc/group", GROUP), trap])
    return shop.push("demo/people", [busybox_layer(), entries], {"User": "web", "Env": ["PATH=/bin"]})


def secured(
    cri: Cri, image: str, wanted: Context, command: list[str] | None = None, **fields: Unpack[ContainerFields]
) -> cri_pb.ContainerConfig:
    config = cri.container_config("c", image, command or ["sleep", "1000"], **fields)
    config.linux.security_context.MergeFrom(wanted)
    config.linux.security_context.namespace_options.pid = cri_pb.CONTAINER
    return config


async def create(
    cri: Cri, name: str, image: str, wanted: Context, handler: str = "", command: list[str] | None = None
) -> str:
    await cri.pull(image)
    sandbox = cri.sandbox_config(name, host_network=True)
    sandbox.linux.security_context.privileged = wanted.privileged
    config = secured(cri, image, wanted, command)
    return await cri.create(await cri.run_sandbox(sandbox, handler), config, sandbox)


async def run(
    cri: Cri, name: str, image: str, wanted: Context, handler: str = "", command: list[str] | None = None
) -> str:
    container_id = await create(cri, name, image, wanted, handler, command)
    await cri.start(container_id)
    return container_id


async def facts(cri: Cri, container_id: str) -> dict[str, str]:
    """/proc/PID/status of an exec."""
    said = (await cri.exec(container_id, STATUS)).stdout.decode()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in said.splitlines())}


async def init_facts(cri: Cri, container_id: str) -> dict[str, str]:
    said = (await cri.exec(container_id, ["cat", "/proc/1/status"])).stdout.decode()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in said.splitlines())}


def names(mask: str) -> set[str]:
    return {name for bit, name in enumerate(NAMES) if int(mask, 16) >> bit & 1}


CAPABILITIES = {
    "default": (cri_pb.Capability(), {"CAP_CHOWN", "CAP_KILL"}, {"CAP_NET_ADMIN", "CAP_SYS_ADMIN"}),
    "added": (cri_pb.Capability(add_capabilities=["NET_ADMIN"]), {"CAP_NET_ADMIN", "CAP_CHOWN"}, set()),
    "dropped": (cri_pb.Capability(drop_capabilities=["CAP_CHOWN"]), {"CAP_KILL"}, {"CAP_CHOWN"}),
    "one of none": (
        cri_pb.Capability(drop_capabilities=["ALL"], add_capabilities=["NET_RAW"]),
        {"CAP_NET_RAW"},
        set(NAMES) - {"CAP_NET_RAW"},
    ),
    "all": (cri_pb.Capability(add_capabilities=["ALL"]), set(host_capabilities()), set()),
    "all but one": (
        cri_pb.Capability(add_capabilities=["ALL"], drop_capabilities=["SYS_ADMIN"]),
        {"CAP_NET_ADMIN"},
        {"CAP_SYS_ADMIN"},
    ),
}


@HANDLERS
@pytest.mark.parametrize("case", CAPABILITIES)
async def test_capabilities_are_those_asked_for_and_none_is_inherited(
    cri: Cri, busybox: str, case: str, handler: str
) -> None:
    wanted, present, absent = CAPABILITIES[case]
    container_id = await run(
        cri, f"caps-{case.replace(' ', '-')}-{handler}", busybox, Context(capabilities=wanted), handler
    )
    for found in (await init_facts(cri, container_id), await facts(cri, container_id)):
        assert names(found["CapInh"]) == names(found["CapAmb"]) == set()  # CVE-2022-24769
        assert found["CapBnd"] == found["CapPrm"] == found["CapEff"]
        assert present <= names(found["CapBnd"])
        assert not absent & names(found["CapBnd"])


@HANDLERS
async def test_an_ambient_capability_reaches_a_user_without_any(cri: Cri, busybox: str, handler: str) -> None:
    wanted = Context(
        run_as_user=cri_pb.Int64Value(value=1000),
        capabilities=cri_pb.Capability(
            drop_capabilities=["ALL"],
            add_capabilities=["NET_BIND_SERVICE"],
            add_ambient_capabilities=["NET_BIND_SERVICE"],
        ),
    )
    container_id = await run(cri, f"ambient-{handler}", busybox, wanted, handler)
    for found in (await init_facts(cri, container_id), await facts(cri, container_id)):
        assert names(found["CapAmb"]) == names(found["CapEff"]) == {"CAP_NET_BIND_SERVICE"}
        assert found["Uid"].split() == ["1000"] * 4


@HANDLERS
async def test_a_privileged_container_has_all_that_the_runtime_has(
    cri: Cri, busybox: str, handler: str
) -> None:
    container_id = await run(cri, f"privileged-{handler}", busybox, Context(privileged=True), handler)
    found = await facts(cri, container_id)
    assert names(found["CapEff"]) == host_capabilities()
    assert names(found["CapInh"]) == set()
    assert found["Seccomp"] == "0"
    script = (
        "mount | grep ' on /sys ' | grep -c rw; mount | grep -c ' on /proc/'; test -e /dev/kmsg && echo dev"
    )
    assert (await cri.exec(container_id, ["sh", "-c", script])).stdout.decode().split() == ["1", "0", "dev"]


@HANDLERS
async def test_seccomp_is_the_profile_asked_for(cri: Cri, busybox: str, tmp_path: Path, handler: str) -> None:
    path = tmp_path / "no-mkdir.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    cases = {
        "runtime": (Profile(profile_type=Profile.RuntimeDefault), "2", 0),
        "none": (Profile(profile_type=Profile.Unconfined), "0", 0),
        "local": (Profile(profile_type=Profile.Localhost, localhost_ref=str(path)), "2", 1),
    }
    for name, (profile, mode, code) in cases.items():
        container_id = await run(cri, f"seccomp-{name}-{handler}", busybox, Context(seccomp=profile), handler)
        assert (await facts(cri, container_id))["Seccomp"] == mode
        made = await cri.exec(container_id, ["mkdir", "/made"])
        assert (made.exit_code, b"not implemented" in made.stderr) == (code, code == 1)


async def test_a_profile_of_a_kernel_feature_that_is_missing_is_refused(cri: Cri, busybox: str) -> None:
    if Path("/sys/module/apparmor/parameters/enabled").exists():
        pytest.skip("this kernel has AppArmor")
    profile = Profile(profile_type=Profile.Localhost, localhost_ref="localhost/mine")
    with pytest.raises(grpc.aio.AioRpcError, match=r"'mine'.*no AppArmor") as caught:
        await create(cri, "apparmor", busybox, Context(apparmor=profile))
    assert caught.value.code() is CODE.UNIMPLEMENTED
    for kind in (Profile.RuntimeDefault, Profile.Unconfined):
        await run(cri, f"apparmor-{kind}", busybox, Context(apparmor=Profile(profile_type=kind)))


@HANDLERS
async def test_no_new_privileges_read_only_root_and_hidden_paths(
    cri: Cri, busybox: str, handler: str
) -> None:
    wanted = Context(
        no_new_privs=True,
        readonly_rootfs=True,
        masked_paths=["/bin/vi", "/etc"],
        readonly_paths=["/proc/sys"],
    )
    container_id = await run(cri, f"locked-{handler}", busybox, wanted, handler)
    assert (await facts(cri, container_id))["NoNewPrivs"] == "1"
    for path, words in (("/x", b"Read-only"), ("/proc/sys/kernel/domainname", b"Read-only")):
        failed = await cri.exec(container_id, ["sh", "-c", f"echo x > {path}"])
        assert failed.exit_code
        assert words in failed.stderr
    hidden = await cri.exec(container_id, ["sh", "-c", "cat /bin/vi; ls -A /etc; /bin/vi"])
    assert (hidden.exit_code, hidden.stdout) == (126, b"")
    assert b"Permission denied" in hidden.stderr
    plain = await run(cri, f"open-{handler}", busybox, Context(), handler)
    assert (await facts(cri, plain))["NoNewPrivs"] == "0"
    assert not (await cri.exec(plain, ["touch", "/x"])).exit_code


GROUPS = {
    "image": (Context(), 1000, 1000, [1000, 50000]),
    "merge": (
        Context(run_as_user=cri_pb.Int64Value(value=1000), supplemental_groups=[1234]),
        1000,
        1000,
        [1000, 1234, 50000],
    ),
    "strict": (
        Context(
            run_as_user=cri_pb.Int64Value(value=1000),
            supplemental_groups=[1234],
            supplemental_groups_policy=cri_pb.Strict,
        ),
        1000,
        1000,
        [1000, 1234],
    ),
    "name": (
        Context(run_as_username="web", run_as_group=cri_pb.Int64Value(value=7)),
        1000,
        7,
        [7, 50000],
    ),
    "unknown number": (Context(run_as_user=cri_pb.Int64Value(value=4321)), 4321, 0, [0]),
}


@pytest.mark.parametrize("case", GROUPS)
async def test_users_and_groups_are_those_of_request_and_image(cri: Cri, people: str, case: str) -> None:
    wanted, uid, gid, groups = GROUPS[case]
    container_id = await run(cri, f"groups-{case.replace(' ', '-')}", people, wanted)
    for found in (await init_facts(cri, container_id), await facts(cri, container_id)):
        assert found["Uid"].split() == [str(uid)] * 4
        assert found["Gid"].split() == [str(gid)] * 4
        assert sorted(map(int, found["Groups"].split())) == groups
    user = (await cri.status(container_id)).user.linux
    assert (user.uid, user.gid, sorted(user.supplemental_groups)) == (uid, gid, groups)


@pytest.mark.parametrize(
    "user", ["4294967296", "2147483648", "-1", "0x0", "1:99999999999", "nobody-here", ":"]
)
async def test_a_users_word_in_an_image_never_becomes_root_by_accident(
    cri: Cri, shop: Registry, user: str
) -> None:
    """CVE-2024-40635."""
    name = hashlib.sha256(user.encode()).hexdigest()[:8]
    image = shop.push(f"demo/user-{name}", [busybox_layer()], {"User": user})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(cri, f"user-{name}", image, Context())
    assert caught.value.code() is CODE.INVALID_ARGUMENT
    assert user.rpartition(":")[2] in refusals.told(caught)


@HANDLERS
async def test_no_working_directory_leads_out_by_a_descriptor(
    cri: Cri, people: str, tmp_path: Path, handler: str
) -> None:
    """CVE-2024-21626: by name, and by a link of the image."""
    await cri.pull(people)
    sandbox = cri.sandbox_config(f"trap-{handler}", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox, handler)
    root = Context(run_as_user=cri_pb.Int64Value(value=0))
    marker = tmp_path / "of-the-node"
    marker.write_text("reached")

    async def trap(name: str, path: str) -> str:
        config = secured(cri, people, root, working_dir=path)
        config.metadata.name = name
        return await cri.create(sandbox_id, config, sandbox)

    for path in ("/proc/self/fd/7", "/proc/1/cwd", "/dev/fd/8"):
        with pytest.raises(grpc.aio.AioRpcError, match="working_dir"):
            await trap("named", path)
    for number in range(3, 21):
        container_id = await trap(f"linked-{number}", f"/trap/{number}")
        try:
            await cri.start(container_id)
        except grpc.aio.AioRpcError as refused:
            assert refused.code() is CODE.UNKNOWN
            continue
        seen = await cri.exec(container_id, ["cat", f"../../../../../../../..{marker}"])
        assert b"reached" not in seen.stdout


@HANDLERS
async def test_the_runtimes_program_is_out_of_reach_by_proc_self_exe(
    cri: Cri, busybox: str, handler: str
) -> None:
    """CVE-2019-5736."""
    program = Path(str(shutil.which(handler))).resolve()
    before = hashlib.sha256(program.read_bytes()).digest()
    container_id = await run(
        cri,
        f"exe-{handler}",
        busybox,
        Context(run_as_user=cri_pb.Int64Value(value=0)),
        handler,
        command=[
            "sh",
            "-c",
            "while :; do for p in /proc/[0-9]*/exe; do echo x >> $p; done; done 2>/dev/null",
        ],
    )
    for _ in range(5):
        await cri.exec(container_id, ["/proc/self/exe"], timeout_s=5)
    assert hashlib.sha256(program.read_bytes()).digest() == before


async def test_no_abstract_socket_is_reachable_from_the_nodes_network(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    """CVE-2020-15257."""
    container_id = await run(cri, "abstract", busybox, Context())
    mine = {str(pid) for pid in node.state["pids"].values()}
    mine |= {(path / "pid").read_text().split()[0] for path in (node.run_dir / "shimd/shims").iterdir()}
    inodes = set()
    for pid in mine:
        for path in Path(f"/proc/{pid}/fd").iterdir():
            target = str(path.readlink())
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    said = (await cri.exec(container_id, ["cat", "/proc/net/unix"])).stdout.decode().splitlines()[1:]
    rows = [line.split() for line in said]
    ours = [row for row in rows if row[6] in inodes]
    assert ours
    assert not [row for row in ours if len(row) > 7 and row[7].startswith("@")]


SYSCTLS = {
    "of the machine": ({"kernel.core_pattern": "|/x"}, "kernel.core_pattern"),
    "by a plus": ({"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/x"}, "shm_rmid_forced"),
    "by a newline": ({"kernel.shm_rmid_forced": "1\nkernel.core_pattern=|/x"}, "shm_rmid_forced"),
    "by an equals sign": ({"net.ipv4.ip_forward=1+kernel.core_pattern": "1"}, "core_pattern"),
    "upwards": ({"net/../kernel/core_pattern": "1"}, "core_pattern"),
}


@pytest.mark.parametrize("case", SYSCTLS)
async def test_a_sysctl_cannot_reach_the_machine(cri: Cri, case: str) -> None:
    """CVE-2022-0811."""
    values, named = SYSCTLS[case]
    before = Path("/proc/sys/kernel/core_pattern").read_bytes()
    config = cri.sandbox_config("sysctl")
    config.linux.sysctls.update(values)
    with pytest.raises(grpc.aio.AioRpcError, match=named) as caught:
        await cri.run_sandbox(config)
    assert caught.value.code() is CODE.INVALID_ARGUMENT
    assert Path("/proc/sys/kernel/core_pattern").read_bytes() == before


async def test_sysctls_are_the_pods_and_never_a_shared_namespaces(cri: Cri, busybox: str) -> None:
    """CVE-2022-0532."""
    config = cri.sandbox_config("sysctl-shared", host_network=True)
    config.linux.sysctls["net.ipv4.ip_unprivileged_port_start"] = "5"
    with pytest.raises(grpc.aio.AioRpcError, match="would be the host's"):
        await cri.run_sandbox(config)
    await cri.pull(busybox)
    own = cri.sandbox_config("sysctl-own")
    own.linux.sysctls.update({"net.ipv4.ip_unprivileged_port_start": "5", "kernel.shm_rmid_forced": "1"})
    sandbox_id = await cri.run_sandbox(own)
    container_id = await cri.create(sandbox_id, secured(cri, busybox, Context()), own)
    await cri.start(container_id)
    paths = ["/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/kernel/shm_rmid_forced"]
    assert (await cri.exec(container_id, ["cat", *paths])).stdout.split() == [b"5", b"1"]


async def test_what_the_node_keeps_is_for_root_alone(cri: Cri, node: TestNode, busybox: str) -> None:
    """CVE-2024-25621: directories let nobody list them, sockets and records let nobody open them."""
    await run(cri, "audit", busybox, Context())
    kept = [node.run_dir, *(node.data_dir / name for name in SERVICES)]
    for path in kept:
        mode = path.stat().st_mode
        if path.is_dir():
            assert not mode & 0o066, path
            if (
                mode & 0o001 and path.name != "mounts"
            ):  # below are root filesystems, with an image's own modes
                kept.extend(path.iterdir())
        elif path.is_socket():
            assert not mode & 0o007, path
        else:
            assert not mode & 0o022, path
