"""The OCI configuration of one container."""

from typing import Any

import msgspec

from runtimed.oci.cgroups import CgroupPlan


class SpecInput(msgspec.Struct, frozen=True, kw_only=True):
    """All that a configuration depends on.

    Attributes:
        container: CRI ContainerConfig.
        sandbox: CRI PodSandboxConfig.
        image_config: the OCI image configuration, whole.
        rootfs: absolute path of the root directory; /etc/passwd and /etc/group are read from it.
        namespaces: pinned path by OCI type; "" is a new private one; an absent type is the host's.
        resolv_conf, hostname_file: files to mount; "" for none.
        shm_path: the sandbox's /dev/shm; "" for the host's.
        host_caps: what this process may give, as CAP_ names.
    """

    container_id: str
    sandbox_id: str
    container: Any
    sandbox: Any
    image_config: dict[str, Any]
    rootfs: str
    namespaces: dict[str, str]
    cgroup: CgroupPlan
    resolv_conf: str
    hostname: str
    hostname_file: str
    shm_path: str
    seccomp_profile_root: str
    host_caps: frozenset[str]
    handler: str


def build(inp: SpecInput) -> dict[str, Any]:
    """config.json."""
    raise NotImplementedError


def process_for_exec(spec: dict[str, Any], cmd: list[str], *, tty: bool) -> dict[str, Any]:
    """process.json of an exec."""
    raise NotImplementedError


def validate_container(config: Any, sandbox_config: Any) -> None:
    """Refuse what can never work or is not offered."""


def validate_sandbox(config: Any) -> None:
    """Refuse what can never work or is not offered."""


def image_volumes(image_config: dict[str, Any]) -> list[str]:
    """Absolute, contained VOLUME paths of an image."""
    raise NotImplementedError
