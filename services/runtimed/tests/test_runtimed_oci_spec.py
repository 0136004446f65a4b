"""OCI configurations as data: what each CRI field becomes, and what is refused with which words."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError, NotFoundError, UnimplementedError
from common.sys.hostroot import HostRoot
from runtimed.network import hostfiles
from runtimed.oci import capabilities, cgroups, idmaps, process, security, spec, sysctls, users
from runtimed.readings import usage

CAPS = frozenset(capabilities.NAMES) - {"CAP_SYS_RESOURCE"}


def container(**fields: Any) -> cri.ContainerConfig:
    base: dict[str, Any] = {
        "metadata": {"name": "web"},
        "image": {"image": "busybox"},
        "command": ["/bin/true"],
    }
    return cri.ContainerConfig(**(base | fields))


def secured(**fields: Any) -> cri.ContainerConfig:
    return container(linux={"security_context": fields})


def sandbox(**fields: Any) -> cri.PodSandboxConfig:
    base: dict[str, Any] = {"metadata": {"name": "pod", "uid": "u", "namespace": "ns"}}
    return cri.PodSandboxConfig(**(base | fields))


def build(config: cri.ContainerConfig, rootfs: Path, *, version: int = 2, **fields: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "container_id": "c1",
        "sandbox_id": "s1",
        "container": config,
        "sandbox": sandbox(),
        "image_config": {},
        "rootfs": str(rootfs),
        "namespaces": {"network": "/ns/net", "ipc": "/ns/ipc", "uts": "/ns/uts", "pid": ""},
        "cgroup": cgroups.plan("cgroupfs", "/kubepods/pod1", "c1", version),
        "resolv_conf": "/sb/resolv.conf",
        "hostname": "pod",
        "hostname_file": "/sb/hostname",
        "shm_path": "/sb/shm",
        "seccomp_profile_root": "/var/lib/kubelet/seccomp",
        "host_caps": CAPS,
        "never_made": ("/etc/absent",),
        "cdi_dirs": (),
        "ulimits": {"nofile": (5, 6)},
        "handler_annotations": {},
        "host": HostRoot(),
    }
    return spec.build(spec.SpecInput(**(base | fields)))


def refuse(config: cri.ContainerConfig, words: str, error: type[Exception] = InvalidArgumentError) -> None:
    with pytest.raises(error, match=words):
        spec.validate_container(config, sandbox())


def test_configuration_has_the_borders_of_the_request(tmp_path: Path) -> None:
    found = build(container(annotations={"a": "b", "run.oci.handler": "wasm"}), tmp_path)
    assert found["ociVersion"] == "1.0.2"
    assert found["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}]
    assert found["root"] == {"path": str(tmp_path), "readonly": False}
    assert found["linux"]["cgroupsPath"] == "/kubepods/pod1/c1"
    assert {"type": "network", "path": "/ns/net"} in found["linux"]["namespaces"]
    assert {"type": "pid"} in found["linux"]["namespaces"]
    assert {"type": "mount"} in found["linux"]["namespaces"]
    assert {"type": "cgroup"} in found["linux"]["namespaces"]
    assert "hostname" not in found
    assert found["annotations"]["a"] == "b"
    assert found["annotations"]["io.kubernetes.cri.sandbox-id"] == "s1"
    assert "run.oci.handler" not in found["annotations"]
    assert "seccomp" not in found["linux"]
    json.dumps(found)


@pytest.mark.parametrize(
    ("command", "args", "entrypoint", "cmd", "words"),
    [
        ([], [], ["e"], ["c"], ["e", "c"]),
        (["x"], [], ["e"], ["c"], ["x"]),
        ([], ["a"], ["e"], ["c"], ["e", "a"]),
        (["x"], ["a"], ["e"], ["c"], ["x", "a"]),
        ([], [], None, ["c"], ["c"]),
    ],
)
def test_command_and_args_replace_those_of_the_image(
    command: list[str], args: list[str], entrypoint: list[str] | None, cmd: list[str], words: list[str]
) -> None:
    assert process.arguments(command, args, {"Entrypoint": entrypoint, "Cmd": cmd}) == words


def test_annotations_that_the_node_allows_steer_the_runtime_the_containers_before_its_pods(
    tmp_path: Path,
) -> None:
    pod = sandbox(annotations={"run.oci.a": "pod", "run.oci.b": "pod", "own": "pod"})
    own = container(annotations={"run.oci.b": "own", "krun.x": "own", "io.kubernetes.cri.sandbox-id": "x"})
    allowed = ("run.oci.*", "io.kubernetes.cri.*")
    found = build(own, tmp_path, sandbox=pod, allowed_annotations=allowed)["annotations"]
    assert (found["run.oci.a"], found["run.oci.b"]) == ("pod", "own")
    assert found["io.kubernetes.cri.sandbox-id"] == "s1"
    assert not {"own", "krun.x"} & found.keys()


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="command: neither"):
        process.arguments([], [], {})


def test_later_variables_replace_earlier_ones() -> None:
    image = {"Env": ["PATH=/image", "A=1=2", "HOSTNAME=image"]}
    found = process.environment(image, [cri.KeyValue(key="A", value=b"cri")], "pod", tty=True)
    assert found == ["PATH=/image", "TERM=xterm", "HOSTNAME=image", "A=cri"]
    assert process.environment({}, [], "pod", tty=False) == [f"PATH={process.DEFAULT_PATH}", "HOSTNAME=pod"]


@pytest.mark.parametrize(
    "path", ["/proc/self/fd/7", "/proc/self/fd", "/proc/1/cwd/x", "//proc/./self/fd/9", "/dev/fd/3", "rel"]
)
def test_magic_working_directory_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgumentError, match="working_dir"):
        process.directory(path, {})


def test_image_working_directory_is_the_fallback() -> None:
    assert process.directory("", {"WorkingDir": "app/../srv"}) == "/srv"
    assert process.directory("/x", {"WorkingDir": "/srv"}) == "/x"
    assert process.directory("", {}) == "/"


def test_score_is_not_below_our_own_without_the_capability() -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text())
    assert process.oom_score_adj(-998, frozenset()) == max(own, -998)
    assert process.oom_score_adj(-998, frozenset({"CAP_SYS_RESOURCE"})) == -998


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nweb:x:33:44::/:\nbig:x:4294967296:0::/:\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nwww:x:55:web,other\nlogs:x:66:web\n")
    return tmp_path


def context(**fields: Any) -> cri.LinuxContainerSecurityContext:
    return cri.LinuxContainerSecurityContext(**fields)


def test_image_user_gets_its_groups(rootfs: Path) -> None:
    assert users.resolve(context(), "web", str(rootfs)) == users.User(33, 44, (44, 55, 66))
    assert users.resolve(context(), "web:www", str(rootfs)).gid == 55
    assert users.resolve(context(), "33", str(rootfs)).groups == (44, 55, 66)
    assert users.resolve(context(), "1000:7", str(rootfs)) == users.User(1000, 7, (7,))
    assert users.resolve(context(), "", str(rootfs)) == users.User(0, 0, (0,))


def test_request_wins_over_the_image(rootfs: Path) -> None:
    wanted = context(run_as_user={"value": 1000}, run_as_group={"value": 5}, supplemental_groups=[9])
    assert users.resolve(wanted, "web", str(rootfs)) == users.User(1000, 5, (5, 9))
    strict = context(run_as_username="web", supplemental_groups=[9], supplemental_groups_policy=1)
    assert users.resolve(strict, "", str(rootfs)) == users.User(33, 44, (9, 44))


@pytest.mark.parametrize(
    "user",
    ["4294967296", "2147483648", "-1", "0x0", "1:99999999999", " 0", "0 ", "web:", ":1", "1:2:3", "\u0661", "big", "no",
     "root\n"],
)  # fmt: skip
def test_odd_image_users_are_refused(user: str, rootfs: Path) -> None:
    with pytest.raises(InvalidArgumentError):
        users.resolve(context(), user, str(rootfs))


@given(st.text(max_size=30))
def test_any_user_text_is_bounded_or_refused(text: str) -> None:
    try:
        found = users.parse_id("user", text)
    except InvalidArgumentError:
        return
    assert found is None or (str(found) == (text.lstrip("0") or "0") and 0 <= found <= users.MAX_ID)
    assert found is not None or not text[0].isdecimal()


@given(st.integers(min_value=0))
@example(0)
@example(1)
@example(users.MAX_ID)
@example(users.MAX_ID + 1)
def test_any_number_is_itself_or_refused(number: int) -> None:
    if number > users.MAX_ID:
        with pytest.raises(InvalidArgumentError):
            users.parse_id("user", str(number))
    else:
        assert users.parse_id("user", str(number)) == number


def test_hostile_passwd_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    secret = tmp_path.parent / "outside"
    secret.write_text("evil:x:0:0::/:\n")
    (tmp_path / "etc/passwd").symlink_to(secret)
    with pytest.raises(InvalidArgumentError, match="no valid entry"):
        users.resolve(context(), "evil", str(tmp_path))
    (tmp_path / "etc/passwd").unlink()
    os.mkfifo(tmp_path / "etc/passwd")
    with pytest.raises(InvalidArgumentError, match="no regular file"):
        users.resolve(context(), "evil", str(tmp_path))
    (tmp_path / "etc/passwd").unlink()
    with (tmp_path / "etc/passwd").open("wb") as file:
        file.truncate(users.MAX_FILE_BYTES + 1)
    with pytest.raises(InvalidArgumentError, match="no regular file"):
        users.resolve(context(), "evil", str(tmp_path))


def granted(**fields: Any) -> set[str]:
    return set(capabilities.resolve(context(capabilities=fields), CAPS)["effective"])


def test_capabilities_are_added_dropped_and_never_inheritable() -> None:
    assert granted() == capabilities.DEFAULT
    assert granted(add_capabilities=["NET_ADMIN"]) == capabilities.DEFAULT | {"CAP_NET_ADMIN"}
    assert granted(drop_capabilities=["cap_kill"]) == capabilities.DEFAULT - {"CAP_KILL"}
    assert granted(drop_capabilities=["ALL"], add_capabilities=["KILL"]) == {"CAP_KILL"}
    assert granted(add_capabilities=["ALL"], drop_capabilities=["KILL"]) == CAPS - {"CAP_KILL"}
    assert granted(add_capabilities=["SYS_RESOURCE"]) == capabilities.DEFAULT
    assert capabilities.resolve(context(), CAPS)["inheritable"] == []
    ambient = capabilities.resolve(context(capabilities={"add_ambient_capabilities": ["NET_ADMIN"]}), CAPS)
    assert ambient["ambient"] == ambient["inheritable"] == ["CAP_NET_ADMIN"]
    with pytest.raises(InvalidArgumentError, match="add_capabilities: unknown capability 'FLY'"):
        granted(add_capabilities=["FLY"])


def test_privileged_container_has_all_and_no_filter(tmp_path: Path) -> None:
    found = build(
        secured(privileged=True, masked_paths=["/proc/kcore"], seccomp={"profile_type": 0}), tmp_path
    )
    assert set(found["process"]["capabilities"]["bounding"]) == CAPS
    assert found["linux"]["maskedPaths"] == []
    assert "seccomp" not in found["linux"]
    assert found["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert {"type": "cgroup"} not in found["linux"]["namespaces"]
    options = {mount["destination"]: mount["options"] for mount in found["mounts"]}
    assert "rw" in options["/sys"]
    assert "rw" in options["/sys/fs/cgroup"]


def test_hidden_paths_are_defaults_only_without_a_security_context() -> None:
    assert security.hidden_paths(container())[0] == list(security.MASKED_PATHS)
    assert security.hidden_paths(secured(readonly_paths=["/proc/sys"])) == ([], ["/proc/sys"])


def test_default_filter_follows_the_capabilities() -> None:
    def allowed(caps: frozenset[str]) -> set[str]:
        rules = security.default_seccomp(caps)["syscalls"]
        return {name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}

    usual, admin = allowed(capabilities.DEFAULT), allowed(frozenset({"CAP_SYS_ADMIN"}))
    assert {"read", "execve", "socket", "clone", "chroot", "statx"} <= usual
    assert not usual & {
        "mount",
        "setns",
        "unshare",
        "bpf",
        "io_uring_setup",
        "keyctl",
        "kexec_load",
        "userfaultfd",
    }
    assert not usual & {"clone3", "open_by_handle_at", "init_module", "reboot", "pivot_root"}
    assert {"mount", "setns", "unshare", "bpf", "clone3"} <= admin
    assert not admin & {"io_uring_setup", "kexec_load", "chroot"}
    assert len(usual) > 370


def test_local_profile_is_read_below_its_root(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(
        '{"defaultAction": "SCMP_ACT_LOG", "listenerPath": "/x", "syscalls": []}'
    )
    for reference in ("p.json", str(tmp_path / "p.json")):
        wanted = context(seccomp={"profile_type": 2, "localhost_ref": reference})
        found = security.seccomp(wanted, CAPS, str(tmp_path), HostRoot())
        assert found == {"defaultAction": "SCMP_ACT_LOG", "syscalls": []}
    missing = context(seccomp={"profile_type": 2, "localhost_ref": "q.json"})
    with pytest.raises(NotFoundError, match=r"q\.json"):
        security.seccomp(missing, CAPS, str(tmp_path), HostRoot())
    (tmp_path / "deep.json").write_text("[" * 9999)
    deep = context(seccomp={"profile_type": 2, "localhost_ref": "deep.json"})
    with pytest.raises(InvalidArgumentError, match="is no JSON"):
        security.seccomp(deep, CAPS, str(tmp_path), HostRoot())
    outside = context(seccomp={"profile_type": 2, "localhost_ref": "../p.json"})
    with pytest.raises(InvalidArgumentError, match="is not within"):
        security.seccomp(outside, CAPS, str(tmp_path), HostRoot())


def test_requested_mounts_replace_defaults_and_parents_come_first(tmp_path: Path) -> None:
    config = container(
        mounts=[
            {"container_path": "/data/deep/er", "host_path": "/tmp", "readonly": True},
            {"container_path": "/data", "host_path": "/tmp", "mount_options": ["noexec"]},
            {"container_path": "/etc/hostname", "host_path": "/tmp"},
            {"container_path": "/ro", "host_path": "/tmp", "readonly": True, "recursive_read_only": True},
            {
                "container_path": "/file",
                "host_path": "/etc/passwd",
                "readonly": True,
                "recursive_read_only": True,
            },
        ]
    )
    found = build(config, tmp_path)
    by_path = {mount["destination"]: mount for mount in found["mounts"]}
    order = [mount["destination"] for mount in found["mounts"]]
    assert order.index("/data") < order.index("/data/deep/er")
    assert order.index("/sys") < order.index("/sys/fs/cgroup")
    assert len(order) == len(set(order))
    assert by_path["/etc/hostname"]["source"] == "/tmp"
    assert by_path["/etc/resolv.conf"]["source"] == "/sb/resolv.conf"
    assert by_path["/dev/shm"]["source"] == "/sb/shm"
    assert by_path["/data"]["options"] == ["rbind", "rprivate", "rw", "noexec"]
    assert by_path["/ro"]["options"] == ["rbind", "rprivate", "rro"]
    assert by_path["/file"]["options"] == ["rbind", "rprivate", "ro"]
    assert "rootfsPropagation" not in found["linux"]


def test_volumes_stay_inside() -> None:
    assert spec.image_volumes({"config": {"Volumes": {"/b": {}, "a/": {}, "/b/c": {}}}}) == [
        "/a",
        "/b",
        "/b/c",
    ]
    for path in ("/../../etc", "/a/../../b", "/", ""):
        with pytest.raises(InvalidArgumentError, match="image VOLUME"):
            spec.image_volumes({"config": {"Volumes": {path: {}}}})


def test_devices_get_a_node_and_a_rule(tmp_path: Path) -> None:
    config = container(
        devices=[{"host_path": "/dev/null", "container_path": "/dev/mine", "permissions": "r"}]
    )
    found = build(config, tmp_path)["linux"]
    assert [(d["path"], d["type"], d["major"], d["minor"]) for d in found["devices"]] == [
        ("/dev/mine", "c", 1, 3)
    ]
    rule = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"}
    assert found["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert found["resources"]["devices"][-1] == rule
    with pytest.raises(InvalidArgumentError, match="/dev/absent"):
        build(container(devices=[{"host_path": "/dev/absent", "container_path": "/dev/x"}]), tmp_path)


@pytest.mark.parametrize(
    "sysctl",
    [
        "kernel.core_pattern",
        "net.ipv4.ip_forward+x",
        "net..x",
        "net/../kernel/core_pattern",
        "kernel.shmmax\n",
        "vm.x",
    ],
)
def test_foreign_sysctls_are_refused(sysctl: str) -> None:
    with pytest.raises(InvalidArgumentError, match="sysctls"):
        sysctls.check({sysctl: "1"}, ["network", "ipc", "uts"])


def test_default_sysctls_are_those_that_the_namespaces_take() -> None:
    wanted = {"net.ipv4.ping_group_range": "0 2147483647", "net.core.somaxconn": "9", "kernel.sem": "1"}
    found = sysctls.defaults(wanted, ["network", "uts"], mapped=False)
    assert found == {"net/ipv4/ping_group_range": "0 2147483647", "net/core/somaxconn": "9"}
    assert sysctls.defaults(wanted, ["network"], mapped=True) == {"net/core/somaxconn": "9"}


def test_sysctls_belong_to_own_namespaces() -> None:
    assert sysctls.check({"net.ipv4.conf.eth0/1.x": "1"}, ["network"]) == {"net/ipv4/conf/eth0.1/x": "1"}
    with pytest.raises(InvalidArgumentError, match="control characters"):
        sysctls.check({"kernel.sem": "1\n2"}, ["ipc"])
    linux = {"sysctls": {"net.a": "1"}, "security_context": {"namespace_options": {"network": 2}}}
    with pytest.raises(InvalidArgumentError, match="would be the host's"):
        spec.validate_sandbox(sandbox(linux=linux))


def test_limits_are_converted_once() -> None:
    wanted = cri.LinuxContainerResources(
        cpu_shares=1024, cpu_quota=5000, cpu_period=10000, memory_limit_in_bytes=1 << 20, cpuset_cpus="0,0-0"
    )
    v1, v2 = cgroups.resources(wanted, 1), cgroups.resources(wanted, 2)
    assert v1["cpu"]["shares"] == 1024
    assert v2["unified"] == {"cpu.weight": "100"}
    assert "shares" not in v2["cpu"]
    assert v2["memory"]["limit"] == 1 << 20
    assert [cgroups.cpu_weight(shares) for shares in (0, 2, 1024, 262144, 1 << 30)] == [
        1,
        1,
        100,
        10000,
        10000,
    ]
    assert "cpu" not in cgroups.resources(cri.LinuxContainerResources(cpu_quota=-1), 1)
    with pytest.raises(InvalidArgumentError, match="cpuset_cpus"):
        cgroups.resources(cri.LinuxContainerResources(cpuset_cpus="0;1"), 2)


@given(st.integers(2, 262144))
def test_weight_is_within_the_kernels_bounds(shares: int) -> None:
    assert 1 <= cgroups.cpu_weight(shares) <= 10000


def test_a_parent_that_only_root_may_read_is_opened(tmp_path: Path) -> None:
    for parent in (tmp_path / "slipway", tmp_path / "pids" / "slipway", tmp_path / "pids" / "other"):
        parent.mkdir(0o700, parents=True)
    cgroups.repair(str(tmp_path))
    modes = [
        oct(path.stat().st_mode & 0o777) for path in sorted(tmp_path.glob("**/*")) if path.name != "pids"
    ]
    assert modes == ["0o700", "0o755", "0o755"]


def test_cgroups_are_placed_by_driver() -> None:
    scope = cgroups.plan("systemd", "kubepods-burstable-podx.slice", "c1", 2)
    assert scope.oci_path == "kubepods-burstable-podx.slice:slipway:c1"
    below = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx.slice/slipway-c1.scope"
    assert scope.dirs == {"": f"/sys/fs/cgroup/{below}"}
    assert cgroups.plan("cgroupfs", "", "c1", 2).oci_path == "/slipway/c1"
    for driver, parent in (
        ("cgroupfs", "a.slice"),
        ("cgroupfs", "/a/../b"),
        ("systemd", "/kubepods"),
        ("x", "/a"),
    ):
        with pytest.raises(InvalidArgumentError):
            cgroups.plan(driver, parent, "c1", 2)


def test_exec_is_the_containers_process_with_other_words(tmp_path: Path) -> None:
    whole = build(container(), tmp_path)
    found = spec.process_for_exec(whole, ["sh"], tty=True)
    assert found["args"] == ["sh"]
    assert found["terminal"]
    assert "TERM=xterm" in found["env"]
    assert found["capabilities"] == whole["process"]["capabilities"]
    assert "TERM=xterm" not in whole["process"]["env"]
    with pytest.raises(InvalidArgumentError, match="cmd: is empty"):
        spec.process_for_exec(whole, [], tty=False)


def test_requests_that_never_work_are_refused_by_name() -> None:
    refuse(secured(run_as_group={"value": 1}), "run_as_group: needs")
    refuse(secured(run_as_user={"value": 1 << 31}), "run_as_user: 2147483648")
    refuse(secured(privileged=True), "privileged: the sandbox is not")
    refuse(container(envs=[{"key": "", "value": b"x"}]), "envs")
    refuse(container(envs=[{"key": "A", "value": b"\xff"}]), "'A' is not UTF-8")
    refuse(container(log_path="../x"), "log_path")
    refuse(container(log_path="a\0b"), "log_path")
    refuse(container(mounts=[{"container_path": "/a/../b", "host_path": "/tmp"}]), "container_path")
    mount = {"container_path": "/a", "host_path": "/tmp"}
    refuse(container(mounts=[mount | {"recursive_read_only": True}]), "recursive_read_only")
    refuse(container(mounts=[mount | {"mount_options": ["suid"]}]), "mount_options: 'suid'")
    image = {"container_path": "/x", "image": {"image": "i"}, "readonly": True}
    refuse(container(mounts=[image | {"host_path": "/y"}]), "mounts.host_path: '/y' beside mounts.image 'i'")
    refuse(container(mounts=[image | {"readonly": False}]), "image 'i' can only be mounted read-only")
    refuse(container(mounts=[image | {"propagation": 1}]), "image 'i' can only be mounted privately")
    for path in ("/etc", "a/../b", "a\0b"):
        refuse(container(mounts=[image | {"image_sub_path": path}]), "mounts.image_sub_path")
    refuse(container(mounts=[mount | {"image_sub_path": "etc"}]), "needs mounts.image")
    refuse(container(CDI_devices=[{"name": "gpu"}]), "CDI_devices: 'gpu' is not vendor/class=device")
    refuse(container(annotations={"cdi.k8s.io/x": "v/c=a,v/c"}), "CDI_devices: 'v/c' is not")
    shifted = {"uidMappings": [{"host_id": 9, "length": 5}], "gidMappings": [{"host_id": 9, "length": 5}]}
    refuse(container(mounts=[mount | shifted]), "mounts.uidMappings: '/a': differ from the sandbox's")
    refuse(secured(namespace_options={"userns_options": {"mode": 0}}), "uids: 0 mappings are given")


def test_a_user_namespace_has_one_mapping_everywhere(tmp_path: Path) -> None:
    mappings = [{"container_id": 0, "host_id": 70_000, "length": 65_536}]
    options = {"userns_options": {"mode": 0, "uids": mappings, "gids": mappings}}
    pod = sandbox(linux={"security_context": {"namespace_options": options}})
    ids = idmaps.of_sandbox(pod)
    assert ids
    assert (ids.uids.to_host(0), ids.uids.to_host(65_535), ids.uids.to_host(65_536)) == (
        70_000,
        135_535,
        65_534,
    )
    spec.validate_sandbox(pod)
    spec.validate_container(container(), pod)
    spec.validate_container(secured(namespace_options=options), pod)
    with pytest.raises(InvalidArgumentError, match="differ from the sandbox's"):
        spec.validate_container(secured(namespace_options=options), sandbox())
    with pytest.raises(UnimplementedError, match=r"namespace_options\.pid: NODE"):
        spec.validate_container(secured(namespace_options={"pid": 2}), pod)
    namespaces = {"user": "/ns/user", "network": "/ns/net", "pid": ""}
    linux = build(container(), tmp_path, namespaces=namespaces, ids=ids)["linux"]
    expected = [{"containerID": 0, "hostID": 70_000, "size": 65_536}]
    assert linux["uidMappings"] == linux["gidMappings"] == expected
    assert {"type": "user", "path": "/ns/user"} in linux["namespaces"]
    assert "uidMappings" not in build(container(), tmp_path)["linux"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hostname": "x" * 65}, "hostname"),
        ({"hostname": "a\nb"}, "hostname"),
        ({"port_mappings": [{"host_port": 65536, "container_port": 1}]}, "port_mappings"),
        ({"port_mappings": [{"host_port": 1, "container_port": 1, "host_ip": "x"}]}, "host_ip"),
        ({"dns_config": {"servers": ["1.1.1.1\nnameserver 2.2.2.2"]}}, "dns_config.servers"),
        ({"log_directory": "relative"}, "log_directory"),
        ({"log_directory": "/a\0b"}, "log_directory"),
        ({"linux": {"cgroup_parent": "/a\nb"}}, "cgroup_parent"),
        ({"linux": {"cgroup_parent": "/a\0b"}}, "cgroup_parent"),
    ],
)
def test_sandboxes_that_never_work_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        spec.validate_sandbox(sandbox(**fields))


@pytest.mark.parametrize(
    ("stub", "upstream", "host_network", "servers"),
    [
        ("nameserver 127.0.0.53\n", "nameserver 192.0.2.1\n", False, ["192.0.2.1"]),
        ("nameserver 127.0.0.53\n", "nameserver 192.0.2.1\n", True, ["127.0.0.53"]),
        ("nameserver 127.0.0.53\n", "# none\n", False, ["127.0.0.53"]),
        ("nameserver 127.0.0.53\n", "", False, ["127.0.0.53"]),
        ("nameserver ::1\nnameserver 127.0.0.1\n", "nameserver fe80::1%eth0\n", False, ["fe80::1%eth0"]),
        ("nameserver 127.0.0.53\nnameserver 9.9.9.9\n", "nameserver 192.0.2.1\n", False, ["127.0.0.53", "9.9.9.9"]),
    ],
)  # fmt: skip
def test_a_pod_with_its_own_network_gets_the_servers_behind_the_hosts_stub(
    tmp_path: Path, stub: str, upstream: str, *, host_network: bool, servers: list[str]
) -> None:
    for path, text in (("etc/resolv.conf", stub), ("run/systemd/resolve/resolv.conf", upstream)):
        if text:
            (tmp_path / path).parent.mkdir(parents=True)
            (tmp_path / path).write_text(text)
    target = tmp_path / "made"
    hostfiles.write_resolv_conf(
        str(target), cri.DNSConfig(), HostRoot(str(tmp_path)), host_network=host_network
    )
    assert [line.split()[1] for line in target.read_text().splitlines()] == servers


def test_resolv_conf_is_cris_or_the_hosts(tmp_path: Path) -> None:
    target = tmp_path / "resolv.conf"
    dns = cri.DNSConfig(servers=["10.0.0.10"], searches=["a.local", "b.local"], options=["ndots:5"])
    hostfiles.write_resolv_conf(str(target), dns, HostRoot(), host_network=False)
    assert target.read_text() == "search a.local b.local\nnameserver 10.0.0.10\noptions ndots:5\n"
    (tmp_path / "run").mkdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "run/stub.conf").write_text("nameserver 127.0.0.53\n")
    (tmp_path / "etc/resolv.conf").symlink_to("/run/stub.conf")
    hostfiles.write_resolv_conf(str(target), cri.DNSConfig(), HostRoot(str(tmp_path)), host_network=False)
    assert target.read_text() == "nameserver 127.0.0.53\n"
    hostfiles.write_hostname(str(target), "pod")
    assert target.read_text() == "pod\n"


def test_statistics_of_cgroup_v2_are_parsed(tmp_path: Path) -> None:
    pressure = (
        "some avg10=1.50 avg60=0.00 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.25 total=7\n"
    )
    files = {
        "cpu.stat": "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n",
        "memory.stat": "anon 4096\ninactive_file 1000\npgfault 12\npgmajfault 3\n",
        "memory.current": "9000\n",
        "memory.max": "10000\n",
        "memory.swap.current": "5\n",
        "memory.swap.max": "max\n",
        "pids.current": "4\n",
        "cpu.pressure": pressure,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = usage.read_stats(cgroups.CgroupPlan("cgroupfs", 2, "/x", {"": str(tmp_path)}))
    assert found is not None
    assert (found.cpu_usage_ns, found.usage_bytes, found.working_set_bytes) == (1_500_000, 9000, 8000)
    assert (found.available_bytes, found.rss_bytes, found.process_count) == (2000, 4096, 4)
    assert (found.page_faults, found.major_page_faults) == (12, 3)
    assert (found.swap_usage_bytes, found.swap_available_bytes) == (5, None)
    assert found.cpu_psi is not None
    assert (found.cpu_psi.some.total_us, found.cpu_psi.some.avg10, found.cpu_psi.full.avg300) == (
        42,
        1.5,
        0.25,
    )
    assert found.memory_psi is None
