"""The options of `run` as CRI sees them."""

import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError
from slipway import parser, request


def options(*words: str):
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
    ],
)
def test_what_cannot_work_is_refused_with_its_option(words: tuple[str, ...]) -> None:
    chosen = options(*words, "busybox")
    with pytest.raises(InvalidArgumentError) as error:
        request.sandbox(chosen, request.name_of(chosen), "/logs")
        request.container(chosen, "x", "sha256:1")
    assert words[-2].lstrip("-")[0] in error.value.message


@pytest.mark.parametrize(
    ("image", "stem"),
    [("registry:5000/a/web:1", "web-"), ("web@sha256:" + "0" * 64, "web-"), ("a/-_:x", "container-")],
)
def test_a_name_comes_from_the_image(image: str, stem: str) -> None:
    assert request.name_of(options(image)).startswith(stem)
