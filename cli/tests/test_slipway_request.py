"""The options of `run` as CRI sees them."""

from argparse import Namespace
from pathlib import Path

import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError
from slipway import parser
from slipway.connect import OWNER
from slipway.options import request


def options(*words: str) -> Namespace:
    return parser.build().parse_args(["run", *words])


def container(*words: str) -> cri.ContainerConfig:
    return request.container(options(*words), "x", "sha256:1")


def test_words_after_the_image_are_the_containers() -> None:
    made = container("--rm", "-it", "busybox", "sh", "-c", "exit", "--name", "-t")
    assert list(made.args) == ["sh", "-c", "exit", "--name", "-t"]
    assert (made.tty, made.stdin, made.stdin_once) == (True, True, False)
    assert list(made.command) == []


def test_piped_input_ends_with_us_and_a_terminal_does_not() -> None:
    assert container("-i", "busybox").stdin_once
    assert not container("-d", "-i", "busybox").stdin_once


@pytest.mark.parametrize(("words", "masked"), [((), True), (("--privileged",), False)])
def test_kernel_paths_are_hidden_unless_privileged(words: tuple[str, ...], masked: bool) -> None:
    security = container(*words, "busybox").linux.security_context
    assert ("/proc/kcore" in security.masked_paths, "/proc/sys" in security.readonly_paths) == (
        masked,
        masked,
    )
    assert (security.seccomp.profile_type == cri.SecurityProfile.RuntimeDefault) == masked or not masked


def test_users_by_number_and_name() -> None:
    security = container("-u", "1000:7", "busybox").linux.security_context
    assert (security.run_as_user.value, security.run_as_group.value) == (1000, 7)
    security = container("-u", "nobody", "busybox").linux.security_context
    assert (security.HasField("run_as_user"), security.run_as_username) == (False, "nobody")


def test_limits_mounts_ports_and_environment() -> None:
    made = container("-m", "64m", "--cpus", "1.5", "-v", "/a:/b:ro,rslave", "-e", "A=b=c", "busybox")
    assert made.linux.resources.memory_limit_in_bytes == 64 << 20
    assert made.linux.resources.cpu_quota == 150_000
    mount = made.mounts[0]
    assert (mount.host_path, mount.container_path, mount.readonly) == ("/a", "/b", True)
    assert mount.propagation == cri.PROPAGATION_HOST_TO_CONTAINER
    assert (made.envs[0].key, made.envs[0].value) == ("A", b"b=c")
    pod = request.sandbox(options("-p", "[::1]:8080:80/udp", "busybox"), "x", "/logs")
    port = pod.port_mappings[0]
    assert (port.host_ip, port.host_port, port.container_port, port.protocol) == ("::1", 8080, 80, cri.UDP)


def test_a_path_of_the_node_may_be_relative_and_labels_are_selinuxs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("-v", "./ctx:/x:ro,z", "-v", "..:/up", "--mount", "type=bind,src=./ctx/in,dst=/in")
    shared, above, inner = container(*words, "busybox").mounts
    assert (shared.host_path, shared.readonly, shared.selinux_relabel) == (f"{tmp_path}/ctx", True, True)
    assert (above.host_path, above.selinux_relabel) == (str(tmp_path.parent), False)
    assert inner.host_path == f"{tmp_path}/ctx/in"


@pytest.mark.parametrize("text", ["myvol:/vol", "/vol"])
def test_a_volume_without_a_path_of_the_node_is_refused_as_such(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="no volumes but paths of the node"):
        container("-v", text, "busybox")


def test_the_host_name_is_given_in_dockers_short_form() -> None:
    assert request.sandbox(options("-h", "hh", "busybox"), "x", "/logs").hostname == "hh"


def test_a_variable_without_a_value_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_TEST_X", "ours")
    assert container("-e", "SLIPWAY_TEST_X", "busybox").envs[0].value == b"ours"
    monkeypatch.delenv("SLIPWAY_TEST_X")
    assert not container("-e", "SLIPWAY_TEST_X", "busybox").envs


@pytest.mark.parametrize(
    "words",
    [
        ("-v", "name:/b"),
        ("-v", "/a:b"),
        ("-v", "/a:/b:zz"),
        ("-p", "0:80"),
        ("-p", "80"),
        ("-p", "80:99999"),
        ("-m", "lots"),
        ("-m", "0"),
        ("-m", "99999999999999g"),
        ("--cpus", "-1"),
        ("--cpus", "nan"),
        ("--cpus", "inf"),
        ("-e", "=x"),
        ("-u", "1:wheel"),
        ("--name", "../x"),
        ("--network", "host", "-p", "1:1"),
        ("--network", "none", "-p", "1:1"),
        ("--tmpfs", "run"),
        ("--tmpfs", "/run:size=lots"),
        ("--mount", "source=/a,target=/b"),
        ("--mount", "type=volume,source=a,target=/b"),
        ("--mount", "type=bind,source=a,target=/b"),
        ("--mount", "type=bind,source=/a"),
        ("--mount", "type=bind,source=/a,target=/b,tmpfs-size=1m"),
        ("--mount", "type=bind,source=/a,target=/b,colour=red"),
        ("--mount", "type=bind,source=/a,target=/b,bind-propagation=wild"),
        ("--mount", "type=tmpfs,source=/a,target=/b"),
        ("--mount", "type=image,target=/b"),
        ("--device", "fuse"),
        ("--device", "/dev/fuse:/x:rz"),
        ("--ulimit", "nofile"),
        ("--ulimit", "nofile=many"),
        ("--security-opt", "seccomp=/no/such/file"),
        ("--security-opt", "label=disable"),
        ("--dns", "nameserver"),
        ("--add-host", "db"),
        ("--add-host", "db:nowhere"),
        ("--sysctl", "net.core.somaxconn"),
        ("--group-add", "wheel"),
        ("--stop-signal", "SIGNOSUCH"),
        ("--oom-score-adj", "2000"),
        ("--label", "=x"),
    ],
)
def test_what_cannot_work_is_refused_with_its_option(words: tuple[str, ...]) -> None:
    chosen = options(*words, "busybox")
    with pytest.raises(InvalidArgumentError) as error:
        request.sandbox(chosen, request.name_of(chosen), "/logs")
        request.container(chosen, "x", "sha256:1")
        request.extras(chosen)
    assert words[-2].lstrip("-")[0] in error.value.message


@pytest.mark.parametrize(
    ("image", "stem"),
    [("registry:5000/a/web:1", "web-"), ("web@sha256:" + "0" * 64, "web-"), ("a/-_:x", "container-")],
)
def test_a_name_comes_from_the_image(image: str, stem: str) -> None:
    assert request.name_of(options(image)).startswith(stem)


def test_variables_and_labels_come_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "vars").write_text("# no variable\n\nA=1\n  B=two words\nA_B=x=y\n")
    (tmp_path / "labels").write_text("tier=front\nplain\n")
    made = container(
        *("--env-file", f"{tmp_path}/vars", "-e", "A=2", "--label-file", f"{tmp_path}/labels"),
        *("-l", "tier=back", "--annotation", "a/b=c", "busybox"),
    )
    assert [(v.key, v.value) for v in made.envs] == [
        ("A", b"1"),
        ("B", b"two words"),
        ("A_B", b"x=y"),
        ("A", b"2"),
    ]
    assert made.labels == {"tier": "back", "plain": "", OWNER: "run"}
    assert made.annotations == {"a/b": "c"}
    (tmp_path / "vars").write_text("fine=1\nnot a variable=1\n")
    with pytest.raises(InvalidArgumentError, match="vars: line 2"):
        container("--env-file", f"{tmp_path}/vars", "busybox")


def test_mounts_of_each_type() -> None:
    words = (
        *("--mount", "type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave"),
        *("--mount", "type=image,source=app:1,target=/app,image-subpath=bin"),
        *("--mount", "type=tmpfs,target=/scratch,tmpfs-size=64m,tmpfs-mode=1770"),
        *("--tmpfs", "/run:exec,size=1m"),
        *("--device", "/dev/fuse", "--device", "/dev/null:/dev/void:r", "busybox"),
    )
    bound, image = container(*words).mounts
    assert (bound.host_path, bound.container_path, bound.readonly) == ("/a", "/b", True)
    assert bound.propagation == cri.PROPAGATION_HOST_TO_CONTAINER
    assert (image.image.image, image.container_path, image.image_sub_path) == ("app:1", "/app", "bin")
    first, second = request.extras(options(*words)).tmpfs
    assert (first.path, list(first.options)) == ("/run", ["nosuid", "nodev", "exec", f"size={1 << 20}"])
    assert list(second.options) == ["nosuid", "nodev", "noexec", f"size={64 << 20}", "mode=1770"]
    assert [(d.host_path, d.container_path, d.permissions) for d in container(*words).devices] == [
        ("/dev/fuse", "/dev/fuse", "rwm"),
        ("/dev/null", "/dev/void", "r"),
    ]


def test_rights_and_names(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text("{}")
    words = (
        *("--cap-add", "NET_ADMIN", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--security-opt", f"seccomp={profile}", "--group-add", "7", "--ulimit", "nofile=10:20"),
        *("--ulimit", "core=-1", "--add-host", "db:10.1.2.3", "--add-host", "six=[::1]", "--pid", "host"),
        *("--dns", "10.0.0.1", "--dns-search", "example", "--dns-option", "ndots:2", "--stop-signal", "quit"),
        "busybox",
    )
    made = container(*words)
    security = made.linux.security_context
    assert list(security.capabilities.add_capabilities) == ["NET_ADMIN"]
    assert list(security.capabilities.drop_capabilities) == ["ALL"]
    assert (security.no_new_privs, list(security.supplemental_groups)) == (True, [7])
    assert security.seccomp.localhost_ref == str(profile)
    assert (security.namespace_options.pid, made.stop_signal) == (cri.NODE, cri.SIGNAL_SIGQUIT)
    extras = request.extras(options(*words))
    assert [(u.name, u.soft, u.hard) for u in extras.ulimits] == [("nofile", 10, 20), ("core", -1, -1)]
    assert [(h.name, h.address) for h in extras.hosts] == [("db", "10.1.2.3"), ("six", "::1")]
    dns = request.sandbox(options(*words), "x", "/logs").dns_config
    assert (list(dns.servers), list(dns.searches), list(dns.options)) == (
        ["10.0.0.1"],
        ["example"],
        ["ndots:2"],
    )
